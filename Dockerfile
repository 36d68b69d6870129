# The image of the pipeline and of every other command of `stockflow`.
#   docker build -t stockflow:0.1.0 --build-arg REVISION=$(git rev-parse HEAD) .
# Name the base by digest for builds that can be repeated: --build-arg PYTHON_IMAGE=python@sha256:...
# The final stage has no compiler and no package of development; it writes nothing and runs as nobody in particular.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# The lock also holds what development and the demo need. All of it is fetched here against its hashes, and nothing else
# can enter: from now on pip is offline and may only choose among these verified wheels.
COPY requirements.lock ./
RUN pip download --quiet --require-hashes --only-binary :all: --dest wheels -r requirements.lock
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/build/wheels

COPY pyproject.toml README.md LICENSE ./
COPY stockflow stockflow
COPY dataflows dataflows
COPY serving serving
COPY operations operations
COPY sources sources
COPY sinks sinks
COPY schemas schemas
COPY stock stock
# An environment of its own for the build backend, so that it stays out of the image.
RUN python -m venv backend \
    && backend/bin/pip install --quiet hatchling \
    && backend/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir own . \
    && python -m venv --without-pip /opt/stockflow \
    && pip --python /opt/stockflow/bin/python install --quiet --only-binary :all: "$(echo own/stockflow-*.whl)[tracing]" \
    && /opt/stockflow/bin/stockflow --help > /dev/null

# What is in the image, with the hashes of the wheels it came from.
COPY .ci/sbom ./
RUN mv own/stockflow-*.whl wheels/ && python sbom /opt/stockflow wheels > /opt/stockflow/sbom.cdx.json

FROM ${PYTHON_IMAGE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="stockflow" \
      org.opencontainers.image.description="Exact, low-latency stock availability from Kafka" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.cyclonedx.sbom="/opt/stockflow/sbom.cdx.json"
# Nothing is written at run time: no bytecode, no state, no files. A read-only root file system is fine.
ENV PATH=/opt/stockflow/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/stockflow /opt/stockflow
# By number, since Kubernetes' runAsNonRoot cannot look a name up; the same as in k8s/base/deployment.yaml.
USER 65532:65532
WORKDIR /opt/stockflow
EXPOSE 9400
ENTRYPOINT ["stockflow"]
CMD ["run"]

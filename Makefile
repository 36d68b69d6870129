# Everything a user or a developer does here is one target. `make help` lists them.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
export PYTHON

.PHONY: help setup demo test fuzz check simulate mutants soak chaos bench-quick bench peers k8s-tools verify-k8s release-check lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed  ## make .venv with everything, from locked hashes

$(VENV)/.installed: requirements.lock pyproject.toml .ci/setup
	@bash .ci/setup $(VENV)

demo: setup  ## the main job on a real shopping pattern, with its own broker and Redis; ARGS="--events 20000"
	@$(BIN)/stockflow demo $(ARGS)

test: setup  ## the whole test suite, on a real Kafka and a real Redis or Valkey
	@$(BIN)/python -m pytest $(ARGS)

INPUTS ?= 1000000
SEED ?= 1
fuzz: setup  ## many absurd inputs through decoding, ledger and dead letters; INPUTS=1000000 SEED=1
	@$(BIN)/python -m tests.fuzz --inputs $(INPUTS) --seed $(SEED) $(ARGS)

check: setup  ## lint, format, types and layers
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

SEEDS ?= 300
ROUNDS ?= 80
FROM ?= 1

simulate: setup  ## the deterministic simulator: SEEDS=20000 FROM=1, or REPLAY=17 for the history of one seed
	@$(BIN)/python -m tests.simulation $(if $(REPLAY),--replay $(REPLAY),--seeds $(SEEDS) --from $(FROM)) $(ARGS)

soak: setup  ## 30 minutes of load and faults on a million balances: leaks, drift, exactness; ARGS="--minutes 2 --balances 20000"
	@$(BIN)/python -m tests.soak $(ARGS)
chaos: setup  ## kill processes at named points: ROUNDS=500 FROM=1, ARGS="--lanes 2 --record f" to go on later
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --from $(FROM) $(ARGS)

mutants: setup  ## plant every bug of tests/mutants and say who caught it; ARGS="--only NAME", ARGS=--simulator
	@$(BIN)/python -m tests.mutants $(ARGS)

k8s-tools: setup  ## put helm, hadolint, promtool and a Redis with TLS into .cache
	@bash .ci/k8s-tools .cache/k8s-tools $(BIN)/python

verify-k8s: k8s-tools  ## chart, kustomizations, rules, dashboards and image, without a cluster (about 2 minutes)
	@$(BIN)/python -m pytest tests/k8s $(ARGS)

release-check: setup  ## what must hold before a version is given out: the wheel, its contents, licences, weaknesses; ARGS="--strict"
	@$(BIN)/python -m tests.release $(ARGS)

bench-quick: setup peers  ## 3 minutes: stockflow against the floor, Kafka Streams, Bytewax, Quix; benchmarks/results/latest.json
	@$(BIN)/python -m benchmarks.suite --quick $(ARGS)

bench: setup peers  ## everything that is compared, for a quiet machine; ARGS="--calm 60"
	@$(BIN)/python -m benchmarks.suite $(ARGS)

peers: setup
	@$(BIN)/python -m benchmarks.peers.environments || true

lock: setup  ## write requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header -o requirements.lock

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache

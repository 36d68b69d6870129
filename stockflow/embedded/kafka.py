"""A real Apache Kafka of our own, one KRaft node from the jars that Maven resolves; never a shared broker."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stockflow.embedded.process import (
    LOOPBACK,
    OwnedServer,
    ServerUnavailable,
    accepts_connections,
    free_port,
    runs,
)

KAFKA_VERSION = "4.1.1"
JAVA_VERSION_MIN = 17  # Kafka 4 brokers run on nothing older.
DOWNLOAD_TIMEOUT_S = 900
WHAT_TO_INSTALL = f"install Java {JAVA_VERSION_MIN} or newer (`java`) and Maven (`mvn`)"

# Kafka's jars bring no SLF4J binding: without one a broker that fails says nothing.
_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>stockflow</groupId><artifactId>embedded-kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
  <build><plugins><plugin>
    <groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version>
  </plugin></plugins></build>
</project>
"""
# One small machine runs broker, pipeline and load together: few threads, small buffers, quick groups.
_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "4000",  # A killed broker may not register again before this is over.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.index.size.max.bytes": "2097152",
}


class KafkaBroker(OwnedServer):
    """Broker and controller in one Java process on free loopback ports.

    The first one on a machine downloads the jars into `cache` (about 50 MB, kept). `properties` are added to,
    or replace, those of server.properties; `format_arguments` go to `StorageTool format` (SCRAM users, say).
    """

    name = "kafka"

    def __init__(
        self,
        cache: Path,
        *,
        folder: Path | None = None,
        properties: Mapping[str, str] | None = None,
        format_arguments: Sequence[str] = (),
        heartbeat_ms: int = 1_000,
        session_ms: int = 6_000,
        heap_mb: int = 512,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Make sure that Java and the jars are there; nothing is started yet.

        Args:
            cache: folder of this user for what is downloaded once.
            folder: data and log; a temporary one if not given.
            properties: further broker properties.
            format_arguments: further arguments for formatting the storage.
            heartbeat_ms: how often members of a KIP-848 group report, so about how long a handover takes.
            session_ms: after how long a silent member is put out of its group.
            heap_mb: upper limit of the Java heap.
            progress: called with one line of text before something slow.

        Raises:
            ServerUnavailable: Java or Maven is missing or too old, or the download failed.
        """
        super().__init__(folder)
        self._java = find_java()
        self._jars = ensure_jars(cache, progress)
        self.port, self._controller_port = free_port(), free_port()
        self._heap_mb = heap_mb
        self._format_arguments = tuple(format_arguments)
        self._cluster_id = new_cluster_id()
        self._properties = {
            **_PROPERTIES,
            "group.consumer.heartbeat.interval.ms": str(heartbeat_ms),
            "group.consumer.min.heartbeat.interval.ms": str(heartbeat_ms),
            "group.consumer.session.timeout.ms": str(session_ms),
            "group.consumer.min.session.timeout.ms": str(session_ms),
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{self._controller_port}",
            **(properties or {}),
        }

    @property
    def bootstrap(self) -> str:
        """Address for clients, as host:port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def description(self) -> str:
        """For example `Apache Kafka 4.1.1 (Maven jars)`."""
        return f"Apache Kafka {KAFKA_VERSION} (Maven jars)"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _properties_file(self) -> Path:
        return self.folder / "server.properties"

    def _java_command(self, *arguments: str) -> list[str]:
        logging = [
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
        ]
        return [self._java, *logging, "-cp", f"{self._jars}/*", *arguments]

    def _before_start(self) -> None:
        """Write the properties and, the first time, format the storage."""
        lines = {**self._properties, "log.dirs": str(self._data)}
        text = "".join(f"{name}={_escaped(value)}\n" for name, value in lines.items())
        self._properties_file.write_text(text, encoding="utf-8")
        if (self._data / "meta.properties").exists():
            return
        arguments = ["format", "-t", self._cluster_id, "-c", str(self._properties_file), *self._format_arguments]
        command = self._java_command("-Xmx128m", "-XX:+UseSerialGC", "kafka.tools.StorageTool", *arguments)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            shutil.rmtree(self._data, ignore_errors=True)
            raise ServerUnavailable(f"{self.description}: storage not formatted:\n{_tail(done.stdout)}")

    def _command(self) -> list[str]:
        # On two cores the serial collector gave the same latencies as G1, took less CPU and let more records through.
        heap = [f"-Xmx{self._heap_mb}m", "-XX:+UseSerialGC"]
        java, *rest = self._java_command("kafka.Kafka", str(self._properties_file))
        return [java, *heap, *rest]

    def _answers(self) -> bool:
        """Accepts connections; a KRaft broker opens its port only once it has registered and caught up."""
        return accepts_connections(self.port)


def new_cluster_id() -> str:
    """An id as Kafka wants it: 16 bytes in its own base64, never with a dash in front."""
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")


def find_java() -> str:
    """The `java` on PATH, tried out.

    Raises:
        ServerUnavailable: there is none that runs, or it is too old.
    """
    java = shutil.which("java")
    printed = runs(java, "-version") if java else None
    found = re.search(r'version "(\d+)', printed or "")
    if java is None or found is None:
        raise ServerUnavailable(f"no Apache Kafka here, `java` is missing: {WHAT_TO_INSTALL}")
    if int(found[1]) < JAVA_VERSION_MIN:
        raise ServerUnavailable(f"no Apache Kafka here, `java` is version {found[1]}: {WHAT_TO_INSTALL}")
    return java


def ensure_jars(cache: Path, progress: Callable[[str], None] | None = None) -> Path:
    """The folder with Kafka's jars, downloaded by Maven the first time.

    Several processes may do this at once: each downloads into a folder of its own, the first one renames it.

    Raises:
        ServerUnavailable: Maven is missing, or it could not download them.
    """
    jars = cache / f"kafka-{KAFKA_VERSION}-{hashlib.sha256(_POM.encode()).hexdigest()[:8]}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerUnavailable(f"no Apache Kafka here, `mvn` is missing: {WHAT_TO_INSTALL}")
    if progress is not None:
        progress(f"downloading Apache Kafka {KAFKA_VERSION} with Maven (about 50 MB, only this once)")
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="kafka-download-", dir=cache))
    try:
        _download(maven, work)
        try:
            (work / "jars").rename(jars)
        except OSError:
            if not jars.is_dir():
                raise
            # another process was faster, with the same jars
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return jars


def _download(maven: str, work: Path) -> None:
    """Copy Kafka's jars and all they need into `work/jars`; Maven refuses one with a wrong checksum."""
    (work / "pom.xml").write_text(_POM, encoding="utf-8")
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={work / 'jars'}", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(
            [maven, "--quiet", "--batch-mode", "--strict-checksums", "-f", str(work / "pom.xml"), *goal],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DOWNLOAD_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerUnavailable(f"Maven could not download Apache Kafka: {error}") from None
    if done.returncode != 0 or not any((work / "jars").glob("kafka_2.13-*.jar")):
        raise ServerUnavailable(
            f"Maven could not download Apache Kafka {KAFKA_VERSION}; is a Maven repository reachable "
            f"(a proxy or mirror belongs into ~/.m2/settings.xml)?\n{_tail(done.stdout)}"
        )


def _escaped(value: str) -> str:
    """A value as Java reads it from a properties file."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _tail(output: bytes, lines: int = 15) -> str:
    return "\n".join(output.decode(errors="replace").strip().splitlines()[-lines:])

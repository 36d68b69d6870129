"""`python -m tests.k8s.pictures MINUTES`: the pictures of the dashboards in k8s/pictures, from a run on this machine.

Two processes work under load on an own Kafka and Redis; one is killed, Redis hangs for a while. A real Prometheus
scrapes them and evaluates the real rules, only more often; each panel's query is asked of it and drawn.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from operations import topics
from stockflow.embedded.process import LOOPBACK, OwnedServer, accepts_connections, free_port, wait_until
from tests import services
from tests.e2e.harness import Pipeline, Stage
from tests.e2e.load import Sending, stories
from tests.k8s.drawing import Series, draw
from tests.k8s.tools import K8S, ROOT
from tests.k8s.watched import DASHBOARDS, RULES, load

PARTITIONS = 6
PER_SECOND = 400
SCRAPED_EACH = "2s"
RATES_OVER = "20s"  # for Grafana's $__rate_interval
HANGS_S = 15
STEPS = 90
WAIT_S = 120


class Prometheus(OwnedServer):
    """The server beside promtool, scraping some pods of one namespace."""

    name = "prometheus"

    def __init__(self, folder: Path, pods: Mapping[str, int]) -> None:
        super().__init__(folder)
        self.port = free_port()
        self._pods = pods

    @property
    def description(self) -> str:
        """What it is."""
        return "Prometheus"

    def _before_start(self) -> None:
        rules = [{**group, "interval": SCRAPED_EACH} for group in RULES["groups"]]
        (self.folder / "rules.yaml").write_text(yaml.safe_dump({"groups": rules}))
        targets = [
            {"targets": [f"{LOOPBACK}:{port}"], "labels": {"namespace": "shop", "pod": pod}}
            for pod, port in self._pods.items()
        ]
        config = {
            "global": {"scrape_interval": SCRAPED_EACH, "scrape_timeout": SCRAPED_EACH},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "stockflow", "static_configs": targets}],
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def _command(self) -> list[str]:
        program = ROOT / ".cache" / "k8s-tools" / "bin" / "prometheus"
        return [
            *(str(program), f"--config.file={self.folder / 'prometheus.yaml'}"),
            *(f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address={LOOPBACK}:{self.port}"),
        ]

    def _answers(self) -> bool:
        return accepts_connections(self.port)

    def ask(self, path: str, **parameters: object) -> list[dict[str, Any]]:
        """The result of a query."""
        url = f"http://{LOOPBACK}:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return result


def main(minutes: float) -> None:
    """Run, and write one picture for each dashboard."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        broker = stack.enter_context(services.own_kafka(heartbeat_ms=500, session_ms=6_000))
        server = stack.enter_context(services.own_redis())
        topics.ensure({"bootstrap.servers": broker.bootstrap}, str, PARTITIONS, 1)
        stage = Stage(broker.bootstrap, "", PARTITIONS, server.url, Path(folder), {})
        stack.callback(stage.close)
        pipelines = [stage.pipeline(LEASE_MS="5000") for _ in range(2)]
        watching = {"stockflow-a": pipelines[0].port, "stockflow-b": pipelines[1].port}
        prometheus = stack.enter_context(Prometheus(Path(folder) / "prometheus", watching))
        sender = Sending(stage.bootstrap, stage.prefix)
        stack.callback(sender.close)
        began = time.time()
        for one in pipelines:
            one.start()
        sender.start(stories(7, PARTITIONS), PER_SECOND)
        until(began + 60 * minutes * 0.4)
        crash(pipelines[1])
        until(began + 60 * minutes * 0.7)
        server.pause()
        time.sleep(HANGS_S)
        server.resume()
        until(began + 60 * minutes)
        sender.stop()
        pictures = K8S / "pictures"
        pictures.mkdir(exist_ok=True)
        for path in DASHBOARDS:
            dashboard = load(path)
            answers = {
                panel["id"]: asked(prometheus, panel, began, time.time())
                for panel in dashboard["panels"]
                if panel["type"] != "row"
            }
            (pictures / f"{path.stem}.svg").write_text(draw(dashboard, answers))


def until(moment: float) -> None:
    """Let the load run on."""
    time.sleep(max(0.0, moment - time.time()))


def crash(pipeline: Pipeline) -> None:
    """Kill it and start it again."""
    pipeline.kill()
    pipeline.launch()
    assert wait_until(lambda: pipeline.is_ready, WAIT_S)


def asked(prometheus: Prometheus, panel: Mapping[str, Any], since: float, to: float) -> Sequence[Series]:
    """The series of a panel: of the whole time for lines, of now for single numbers."""
    found = []
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", RATES_OVER).replace("$namespace", ".*")
        if target.get("instant"):
            results = prometheus.ask("query", query=query)
        else:
            results = prometheus.ask("query_range", query=query, start=since, end=to, step=(to - since) / STEPS)
        for one in results:
            points = one["values"] if "values" in one else [one["value"]]
            found.append(
                Series(legend(target["legendFormat"], one["metric"]), [(float(at), float(v)) for at, v in points])
            )
    return found


def legend(form: str, labels: Mapping[str, str]) -> str:
    """Grafana's legend with the labels filled in; all labels where there is no form."""
    if not form:
        return ", ".join(f"{name} {value}" for name, value in sorted(labels.items()))
    for name, value in labels.items():
        form = form.replace("{{" + name + "}}", value)
    return " ".join(word for word in form.split() if not word.startswith("{{"))


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 5.0)

"""The demo's orchestration, without servers: options, the pipeline's settings, when everything counts as done."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from stockflow.demo.observe import Scrape
from stockflow.demo.run import _WITH_TANSU, WRONG_USE, DemoOptions, _environment, _Gauge, demo
from stockflow.settings import Settings, load

SETTINGS = Settings(
    bootstrap_servers="127.0.0.1:20001",
    redis_url="redis://127.0.0.1:20002/0",
    group_id="stockflow-demo",
    metrics_host="127.0.0.1",
    metrics_port=20_003,
)


@pytest.mark.parametrize("options", [DemoOptions(events=10), DemoOptions(speed=0), DemoOptions(speed=-3)])
def test_options_that_make_no_sense_are_wrong_use(options: DemoOptions) -> None:
    """Nothing is started; the exit code is that of wrong use, and the text names the options."""
    out = io.StringIO()
    assert demo(options, Console(file=out, width=200)) == WRONG_USE
    assert out.getvalue() == "--events must be at least 500, and --speed greater than 0.\n"


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, replace(SETTINGS, **_WITH_TANSU)],  # type: ignore[arg-type]
    ids=["kafka", "tansu"],
)
def test_pipeline_gets_exactly_the_demos_settings(settings: Settings) -> None:
    """The child reads from its environment what the demo has decided, and accepts it."""
    assert load(_environment(DemoOptions(), settings)) == settings


def test_pipeline_inherits_the_environment_but_no_settings_of_stockflow() -> None:
    """A user's own pipeline settings must not lead the demo to their Kafka."""
    inherited = {"PATH": "/bin", "STOCKFLOW_BOOTSTRAP_SERVERS": "prod:9092", "STOCKFLOW_KAFKA__SASL_USERNAME": "me"}
    environment = _environment(DemoOptions(environment=inherited), SETTINGS)
    assert environment["PATH"] == "/bin"
    assert environment["STOCKFLOW_BOOTSTRAP_SERVERS"] == "127.0.0.1:20001"
    assert "STOCKFLOW_KAFKA__SASL_USERNAME" not in environment


@pytest.mark.parametrize(
    ("text", "before", "last", "calm"),
    [
        (
            "all processed, nothing moves",
            Scrape(events={"applied": 10}, lag=0),
            Scrape(events={"applied": 10}, lag=0),
            True,
        ),
        ("lag", Scrape(events={"applied": 10}, lag=0), Scrape(events={"applied": 10}, lag=1), False),
        ("lag not known", Scrape(events={"applied": 10}), Scrape(events={"applied": 10}), False),
        ("an event without outcome", Scrape(events={"applied": 9}, lag=0), Scrape(events={"applied": 9}, lag=0), False),
        (
            "still publishing",
            Scrape(events={"applied": 10}, lag=0),
            Scrape(events={"applied": 10}, lag=0, published={"availability.v1 urgent": 1}),
            False,
        ),
    ],
)
def test_calm_means_all_processed_and_nothing_moving(text: str, before: Scrape, last: Scrape, calm: bool) -> None:
    """Only then the pipeline is stopped and checked."""
    gauge = _Gauge(0.0)
    gauge.add(1.0, 10, before)
    assert not gauge.is_calm(10)
    gauge.add(2.0, 10, last)
    assert gauge.is_calm(10) is calm, text


def test_a_pipeline_that_does_not_answer_makes_no_progress() -> None:
    """The last known figures stay, and the time of the last progress too."""
    gauge = _Gauge(0.0)
    gauge.add(1.0, 10, Scrape(events={"applied": 5}, lag=5))
    gauge.add(2.0, 10, None)
    assert gauge.last.processed == 5
    assert gauge.progressed_at == 1.0
    assert gauge.is_due(2.5) is False
    assert gauge.is_due(3.0) is True

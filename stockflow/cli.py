"""The command `stockflow`: reads arguments and settings, calls one function, turns its result into an exit code.

Each command imports what it needs when it runs: `topics diff` should not wait for Bytewax and polars to load.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from stockflow import __version__
from stockflow.settings import InvalidSettings, Settings, load, process_environment

FINE, FAILED, WRONG_USE = 0, 1, 2

app = typer.Typer(
    name="stockflow",
    help="Exact stock availability per SKU and location, from Kafka to a compacted topic and Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
topics_app = typer.Typer(help="Make or check the topics; never destroys anything.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")

_out = Console()
_err = Console(stderr=True)


def main() -> None:
    """Start the command line."""
    app()


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        _out.print(f"stockflow {__version__}")
        raise typer.Exit(FINE)


@app.command("run")
def run_command() -> None:
    """Run the pipeline with the settings of the environment until SIGTERM."""
    from stockflow.run import run

    raise typer.Exit(run(_settings()))


@app.command("demo")
def demo_command(
    events: Annotated[int, typer.Option(help="About how many events to send.", min=1_000, max=1_000_000)] = 60_000,
    speed: Annotated[
        float | None, typer.Option(help="Shopping seconds per real second; by default about 950 events/s.", min=0.1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another day.")] = 7,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Leave everything running until Ctrl-C.")
    ] = False,
) -> None:
    """The pipeline on a real shopping pattern with a broker and Redis of its own, checked at the end."""
    from stockflow.demo.run import DemoOptions, demo

    options = DemoOptions(
        events=events, speed=speed, seed=seed, keep_running=keep_running, environment=process_environment()
    )
    raise typer.Exit(demo(options, _out))


@topics_app.command("ensure")
def topics_ensure() -> None:
    """Make missing topics and move settings that fall short; exit code 1 if something else still differs."""
    from operations.topics import KafkaUnreachable, TopicsRefused, diff, ensure

    settings = _settings()
    try:
        changes = ensure(settings.client_config(), settings.topic, settings.partitions, settings.replication)
        rest = diff(settings.client_config(), settings.topic, settings.partitions)
    except (KafkaUnreachable, TopicsRefused) as error:
        _fail(str(error))
    for change in changes:
        _out.print(f"[green]changed[/green] {change}", highlight=False)
    if not changes:
        _out.print("nothing to change")
    _report(rest)


@topics_app.command("diff")
def topics_diff() -> None:
    """Say what is missing or different, change nothing; exit code 1 if there is anything."""
    from operations.topics import KafkaUnreachable, diff

    settings = _settings()
    try:
        differences = diff(settings.client_config(), settings.topic, settings.partitions)
    except KafkaUnreachable as error:
        _fail(str(error))
    if not differences:
        _out.print("all topics are as they should be")
    _report(differences)


@app.command("audit")
def audit_command() -> None:
    """Recompute everything from the log and compare with the topic and Redis; exit code 1 on a difference."""
    from operations.audit import AuditImpossible, audit, render

    settings = _settings()
    now = datetime.fromtimestamp(time.time(), timezone.utc)
    try:
        report = audit(
            settings.client_config(), settings.topic, settings.redis_url, now, None, thresholds=settings.thresholds()
        )
    except AuditImpossible as error:
        _fail(str(error))
    _out.print(render(report))
    raise typer.Exit(FINE if report.equal else FAILED)


@app.command("inspect")
def inspect_command(
    sku: Annotated[str, typer.Argument(help="The SKU that is asked about.")],
    location: Annotated[str | None, typer.Argument(help="Only this location.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer as JSON.")] = False,
    movements: Annotated[int, typer.Option(help="How many of the last facts to show per location.", min=0)] = 10,
    look_back: Annotated[
        int, typer.Option(help="How many of the newest records of each input to look through.", min=0)
    ] = 100_000,
) -> None:
    """Why a SKU says what it says: balance, arithmetic, holds, policies, last facts; exit code 1 if it is unknown."""
    from operations.audit import AuditImpossible
    from operations.inspect import Explanation, Question, explain_sku, render
    from operations.inspect import as_json as json_of
    from schemas.events import check_names
    from schemas.state import UnknownFormat

    refusal = check_names(sku, sku if location is None else location)
    if refusal is not None:
        _err.print(f"[red]wrong use:[/red] {escape(refusal.detail)}", highlight=False)
        raise typer.Exit(WRONG_USE)
    settings = _settings()
    now = datetime.fromtimestamp(time.time(), timezone.utc)
    question = Question(sku, location, movements, look_back)
    try:
        answer = explain_sku(settings.client_config(), settings.topic, question, now)
    except (AuditImpossible, UnknownFormat) as error:
        _fail(str(error))
    if as_json:
        typer.echo(json_of(answer))
    else:
        _out.print(render(answer), highlight=False)
    raise typer.Exit(FINE if isinstance(answer, Explanation) else FAILED)


@app.command("heartbeats")
def heartbeats_command(
    silence: Annotated[float, typer.Option(help="Seconds that a feed may say nothing and is still complete.", min=1)],
    every: Annotated[float, typer.Option(help="Seconds between two heartbeats of a feed that talks.", min=0.1)] = 30.0,
) -> None:
    """Send `source.alive` for each location whose tills or warehouse system tell facts, until SIGTERM."""
    from operations.heartbeats import Heartbeats, HeartbeatsFailed, watch

    settings = _settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    beats = Heartbeats(silence, every)
    try:
        sent = watch(settings.client_config(), settings.topic, beats, lambda: int(time.time() * 1e6), stop.is_set)
    except HeartbeatsFailed as error:
        _fail(str(error))
    _out.print(f"{sent} heartbeats sent")


def _settings() -> Settings:
    try:
        return load()
    except InvalidSettings as error:
        _err.print(f"[red]settings:[/red] {error}", highlight=False)
        raise typer.Exit(WRONG_USE) from None


def _report(differences: Sequence[object]) -> None:
    findings = [d for d in differences if getattr(d, "kind", None) != "unchecked"]
    for difference in differences:
        _out.print(f"[yellow]differs[/yellow] {difference}", highlight=False)
    raise typer.Exit(FAILED if findings else FINE)


def _fail(text: str) -> NoReturn:
    _err.print(f"[red]failed:[/red] {text}", highlight=False)
    raise typer.Exit(FAILED)

"""The HTTP server for metrics and probes, asked over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from stockflow import health
from stockflow.health import CannotListen, HealthServer, Verdict

FINE = Verdict(True, "owns 2 partitions", {"partitions": [0, 1]})


def registry_with_events(count: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("stockflow_test_events", "Events seen.", ["outcome"], registry=registry).labels("applied").inc(count)
    return registry


@contextmanager
def serving(registry=None, live=lambda: FINE, ready=lambda: FINE, token="") -> Iterator[HealthServer]:
    with HealthServer("127.0.0.1", 0, registry or CollectorRegistry(), live, ready, token) as server:
        yield server


def ask(server: HealthServer, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
@pytest.mark.parametrize(("verdict", "status"), [(FINE, 200), (Verdict(False, "lag is 20000", {"lag": 20_000}), 503)])
def test_probe_answers_its_verdict_with_the_reason(path: str, verdict: Verdict, status: int) -> None:
    """A probe says 200 or 503, and why, as JSON."""
    unasked = Verdict(False, "the other probe was asked")
    verdicts = {"/livez": unasked, "/readyz": unasked, path: verdict}
    with serving(live=lambda: verdicts["/livez"], ready=lambda: verdicts["/readyz"]) as server:
        response, body = ask(server, "GET", path)
    assert response.status == status
    assert response.getheader("Content-Type") == "application/json"
    assert response.getheader("Cache-Control") == "no-store"
    assert json.loads(body) == {"ok": verdict.ok, "reason": verdict.reason, "details": dict(verdict.details)}


@pytest.mark.parametrize(
    ("text", "shown", "status"),
    [
        ("the token", {"Authorization": "Bearer s3cret"}, 200),
        ("nothing", {}, 401),
        ("another token", {"Authorization": "Bearer s3cre"}, 401),
        ("the token without its word", {"Authorization": "s3cret"}, 401),
        ("a password", {"Authorization": "Basic s3cret"}, 401),
        ("letters of elsewhere", {"Authorization": "Bearer s3cr\u00e9t"}, 401),
    ],
)
def test_metrics_ask_for_the_token_and_probes_do_not(text: str, shown: dict[str, str], status: int) -> None:
    """Whoever does not show it gets no number, and no hint at it."""
    with serving(registry_with_events(7), token="s3cret") as server:
        response, body = ask(server, "GET", "/metrics", **shown)
        probe, _ = ask(server, "GET", "/livez")
    assert (response.status, probe.status) == (status, 200)
    assert (b"stockflow_test_events_total" in body) == (status == 200)
    assert response.getheader("WWW-Authenticate") == (None if status == 200 else "Bearer")
    assert b"s3cr" not in body


def test_details_may_hold_any_value() -> None:
    """Partition numbers as keys, times and paths as values are written as text."""
    at = datetime(2026, 11, 22, 10, 15, tzinfo=timezone.utc)
    with serving(live=lambda: Verdict(True, "fine", {"lag": {3: 7}, "since": at, "error": OSError("gone")})) as server:
        _, body = ask(server, "GET", "/livez")
    assert json.loads(body)["details"] == {"lag": {"3": 7}, "since": "2026-11-22T10:15:00Z", "error": "gone"}


def test_probe_that_raises_fails_without_telling_the_message() -> None:
    """An exception in a probe is a 503 that names its type only; the server goes on."""

    def broken() -> Verdict:
        raise RuntimeError("password=hunter2")

    with serving(live=broken) as server:
        response, body = ask(server, "GET", "/livez")
        after, _ = ask(server, "GET", "/readyz")
    assert response.status == 503
    assert json.loads(body) == {"ok": False, "reason": "probe failed", "details": {"error": "RuntimeError"}}
    assert after.status == 200


def test_metrics_are_prometheus_text_unless_openmetrics_is_asked_for() -> None:
    """The format follows the Accept header, as Prometheus negotiates it."""
    with serving(registry_with_events(3)) as server:
        plain, text = ask(server, "GET", "/metrics")
        wanted, open_text = ask(server, "GET", "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert plain.status == wanted.status == 200
    assert plain.getheader("Content-Type", "").startswith("text/plain; version=0.0.4")
    assert wanted.getheader("Content-Type", "").startswith("application/openmetrics-text; version=1.0.0")
    for families in (parse_text(text.decode()), parse_openmetrics(open_text.decode())):
        samples = {one.name: one.value for family in families for one in family.samples}
        assert samples["stockflow_test_events_total"] == 3


def test_scrape_that_breaks_costs_only_itself() -> None:
    """A collector's bug is a 500 for this scrape; the next one, and the probes, work."""
    failures = ["first"]

    class Collector:
        def collect(self) -> Iterator[object]:
            if failures:
                raise KeyError(failures.pop())
            return iter(())

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())  # type: ignore[arg-type]
    failures[:] = ["again"]
    with serving(registry) as server:
        broken, body = ask(server, "GET", "/metrics")
        after, _ = ask(server, "GET", "/metrics")
        alive, _ = ask(server, "GET", "/livez")
    assert [broken.status, after.status, alive.status] == [500, 200, 200]
    assert json.loads(body) == {"ok": False, "reason": "scrape failed", "details": {"error": "KeyError"}}


@pytest.mark.parametrize(
    ("text", "method", "path", "status"),
    [
        ("unknown path", "GET", "/", 404),
        ("path below a known one", "GET", "/livez/more", 404),
        ("query is ignored", "GET", "/livez?verbose", 200),
        ("head of a probe", "HEAD", "/readyz", 200),
        ("head of the metrics", "HEAD", "/metrics", 200),
        ("writing", "POST", "/metrics", 405),
        ("deleting", "DELETE", "/livez", 405),
    ],
)
def test_only_reading_of_three_paths_is_answered(text: str, method: str, path: str, status: int) -> None:
    """Anything but GET and HEAD is 405, any other path 404; HEAD has the length of GET and no body."""
    with serving() as server:
        response, body = ask(server, method, path)
        full, full_body = ask(server, "GET", path)
    assert response.status == status, text
    if method == "HEAD":
        assert body == b""
        assert response.getheader("Content-Length") == full.getheader("Content-Length") == str(len(full_body))
    if status == 405:
        assert response.getheader("Allow") == "GET, HEAD"


def test_connection_is_kept_for_the_next_request() -> None:
    """HTTP/1.1: a scraper asks again on the same socket, unless it sent a body that nobody reads."""
    with serving() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/livez")
        connection.getresponse().read()
        kept = connection.sock
        connection.request("GET", "/readyz")
        assert connection.getresponse().read() != b""
        assert connection.sock is kept
        connection.request("GET", "/livez", body=b"GET /metrics HTTP/1.1\r\n\r\n")
        response = connection.getresponse()
        response.read()
        assert response.getheader("Connection") == "close"
        connection.close()


def test_silent_client_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that connects and says nothing loses its connection after the time limit."""
    monkeypatch.setattr(health._Handler, "timeout", 0.2)
    with serving() as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        assert client.recv(1) == b""


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection above the limit is closed at once; a freed place is given to the next."""
    monkeypatch.setattr(health, "CONNECTIONS_MAX", 1)
    entered, leave = threading.Event(), threading.Event()

    def slow() -> Verdict:
        entered.set()
        assert leave.wait(10)
        return FINE

    with serving(live=slow) as server:
        held = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        held.request("GET", "/livez")
        assert entered.wait(10)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as refused:
            assert refused.recv(1) == b""
        leave.set()
        assert held.getresponse().read() != b""
        held.close()
        assert server._server is not None
        assert server._server._free.acquire(timeout=10)
        server._server._free.release()
        response, _ = ask(server, "GET", "/readyz")
    assert response.status == 200


def test_taken_port_is_explained() -> None:
    """Starting on a port in use names the port and the variable to change."""
    with serving() as server:
        second = HealthServer("127.0.0.1", server.port, CollectorRegistry(), lambda: FINE, lambda: FINE)
        with pytest.raises(CannotListen) as caught:
            second.start()
    assert str(caught.value) == (
        f"cannot serve metrics and probes on 127.0.0.1:{second.port}: Address already in use. "
        "Set STOCKFLOW_METRICS_PORT to a free port (0 takes any), "
        "or STOCKFLOW_METRICS_HOST to an address of this machine"
    )


def test_closed_server_frees_its_port() -> None:
    """After close the port can be opened again, and closing twice is harmless."""
    server = HealthServer("127.0.0.1", 0, CollectorRegistry(), lambda: FINE, lambda: FINE).start()
    port = server.port
    server.close()
    server.close()
    with HealthServer("127.0.0.1", port, CollectorRegistry(), lambda: FINE, lambda: FINE) as again:
        assert again.port == port
        response, _ = ask(again, "GET", "/livez")
    assert response.status == 200

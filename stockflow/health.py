"""The HTTP server for metrics and probes; it only reads, so no request can slow down, change or stop the pipeline."""

from __future__ import annotations

import hmac
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from stockflow import logs

METRICS_PATH = "/metrics"
LIVE_PATH = "/livez"
READY_PATH = "/readyz"

# A client that connects and says nothing, or stops reading, gives its thread back after this long.
CLIENT_TIMEOUT_S = 10.0
# Each connection costs a thread and a file descriptor that Kafka may need; two probes and a few scrapers use far less.
CONNECTIONS_MAX = 32
CLOSE_TIMEOUT_S = 2.0

log = logs.get("stockflow.health")


class CannotListen(OSError):
    """The address for metrics and probes cannot be opened; the text says which variable to change."""


@dataclass(frozen=True)
class Verdict:
    """The answer of a probe: `ok` decides between 200 and 503, `reason` is for people, `details` for tools."""

    ok: bool
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answer:
    status: HTTPStatus
    content_type: str
    body: bytes


class HealthServer:
    """Serves `/metrics`, `/livez` and `/readyz` from daemon threads, beside the thread that runs the pipeline.

    `live` and `ready` are called from those threads, at any time and several at once: they must not block and should
    read plain values that the pipeline leaves for them. One that raises counts as a failed probe and is logged.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        live: Callable[[], Verdict],
        ready: Callable[[], Verdict],
        token: str = "",
    ) -> None:
        """Keep the ends; nothing is opened before `start`. With a token only who shows it gets the metrics."""
        self._address = (host, port)
        self._registry = registry
        self._verdicts = {LIVE_PATH: live, READY_PATH: ready}
        self._authorization = f"Bearer {token}".encode() if token else None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port in use: the one asked for, or the free one found for port 0 (0 until started)."""
        return self._address[1] if self._server is None else int(self._server.server_address[1])

    def start(self) -> HealthServer:
        """Open the port and answer from now on.

        Raises:
            CannotListen: the address is taken, not allowed or not on this machine.
        """
        assert self._server is None, "started twice"
        try:
            self._server = _Server(self._address, self._answer)
        except (OSError, OverflowError) as error:
            raise CannotListen(_advice(*self._address, error)) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True
        )
        self._thread.start()
        log.info("health_serving", host=self._address[0], port=self.port)
        return self

    def close(self) -> None:
        """Stop listening; requests under way are left to their threads. Does nothing if not started."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.shutdown()
        server.server_close()
        self._thread.join(CLOSE_TIMEOUT_S)

    def __enter__(self) -> HealthServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, path: str, accept: str, authorization: str) -> _Answer:
        if path == METRICS_PATH:
            # Headers are Latin-1; the comparison takes as long for a guess that is nearly right.
            shown = authorization.encode("latin-1", "replace")
            if self._authorization is not None and not hmac.compare_digest(shown, self._authorization):
                return _verdict_answer(
                    HTTPStatus.UNAUTHORIZED, Verdict(False, "show the token of STOCKFLOW_METRICS_TOKEN")
                )
            return self._metrics(accept)
        if path in self._verdicts:
            return self._probe(path)
        return _verdict_answer(
            HTTPStatus.NOT_FOUND,
            Verdict(False, "no such path", {"paths": [METRICS_PATH, LIVE_PATH, READY_PATH]}),
        )

    def _metrics(self, accept: str) -> _Answer:
        try:
            encode, content_type = choose_encoder(accept)
            return _Answer(HTTPStatus.OK, content_type, encode(self._registry))
        except Exception as error:
            # A collector is code of the pipeline's parts: its bug costs this scrape, not the process.
            log.exception("scrape_failed", path=METRICS_PATH)
            return _verdict_answer(HTTPStatus.INTERNAL_SERVER_ERROR, _failure("scrape failed", error))

    def _probe(self, path: str) -> _Answer:
        try:
            verdict = self._verdicts[path]()
            return _verdict_answer(HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE, verdict)
        except Exception as error:
            # Not knowing is not being well: the orchestrator has to see it.
            log.exception("probe_failed", path=path)
            return _verdict_answer(HTTPStatus.SERVICE_UNAVAILABLE, _failure("probe failed", error))


class _Server(ThreadingHTTPServer):
    """A threaded server with bounded connections that never asks DNS and never writes to stderr."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], answer: Callable[[str, str, str], _Answer]) -> None:
        self.answer = answer
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer.server_bind resolves the host's full name, which waits for seconds where DNS is slow.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            log.warning("connection_refused", reason="too many are open", limit=CONNECTIONS_MAX)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection_ended_early", client=str(client_address), exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "stockflow"
    sys_version = ""
    timeout = CLIENT_TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        accept, authorization = self.headers.get("Accept", ""), self.headers.get("Authorization", "")
        self._reply(self.server.answer(self.path.partition("?")[0], accept, authorization))

    do_HEAD = do_GET  # noqa: N815 - the base class looks for these names

    def _refuse(self) -> None:
        self._reply(_verdict_answer(HTTPStatus.METHOD_NOT_ALLOWED, Verdict(False, "only GET and HEAD are answered")))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _reply(self, answer: _Answer) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            # The unread body would be taken for the next request.
            self.close_connection = True
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        # Probes come every few seconds: an access log would bury everything else.
        log.debug("request", line=format % args)


def _verdict_answer(status: HTTPStatus, verdict: Verdict) -> _Answer:
    body = orjson.dumps(
        {"ok": verdict.ok, "reason": verdict.reason, "details": dict(verdict.details)},
        default=str,
        option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE,
    )
    return _Answer(status, "application/json", body)


def _failure(reason: str, error: Exception) -> Verdict:
    # The message may quote what it failed on; the log has it, masked.
    return Verdict(False, reason, {"error": type(error).__name__})


def _advice(host: str, port: int, error: Exception) -> str:
    cause = getattr(error, "strerror", None) or str(error)
    return (
        f"cannot serve metrics and probes on {host}:{port}: {cause}. "
        "Set STOCKFLOW_METRICS_PORT to a free port (0 takes any), "
        "or STOCKFLOW_METRICS_HOST to an address of this machine"
    )

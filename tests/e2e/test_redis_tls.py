"""Redis over TLS: a real server with an authority of its own and the shipped users, and a pipeline that fills it."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from schemas.topics import AVAILABILITY
from stockflow.embedded import RedisServer, ServerUnavailable
from stockflow.embedded.process import LOOPBACK, free_port, runs
from tests import services
from tests.certificates import Authority, Certificate
from tests.e2e.harness import Stage
from tests.e2e.load import Sending, stories
from tests.e2e.verdict import settle
from tests.k8s.tools import K8S, tool

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

PASSWORD = "change-me"  # of every user, as in redis-users.acl


class EncryptedRedis(RedisServer):
    """A server that speaks TLS only, and knows the users of redis-users.acl."""

    def __init__(self, program: str, authority: Authority, own: Certificate) -> None:
        self._trusted = str(authority.certificate)
        self.tls_port = free_port()
        files = ("--tls-cert-file", str(own.certificate), "--tls-key-file", str(own.key))
        super().__init__(
            arguments=[
                *("--port", "0", "--tls-port", str(self.tls_port), *files, "--tls-ca-cert-file", self._trusted),
                *("--tls-auth-clients", "no"),
            ]
        )
        self._program, self._description = program, runs(program, "--version") or program
        users = (K8S / "redis-users.acl").read_text()
        if " v=7.0." in self._description:  # as k8s/README.md says of servers before 7.2
            users = users.replace(" +client|setinfo", "")
        (self.folder / "users.acl").write_text(users)
        self._arguments += ("--aclfile", str(self.folder / "users.acl"))

    def url_of(self, user: str, trusted: Path | None = None) -> str:
        """Address for clients of this user that trust an authority, the server's own unless another is named."""
        return f"rediss://{user}:{PASSWORD}@{LOOPBACK}:{self.tls_port}/0?ssl_ca_certs={trusted or self._trusted}"

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=self._trusted)
        context.check_hostname = False  # that of the address is for the client under test to check
        try:
            plain = socket.create_connection((LOOPBACK, self.tls_port), timeout=1)
            with plain, context.wrap_socket(plain) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Callable[..., EncryptedRedis]]:
    """A function that starts such a server with a certificate for an address."""
    program = tool("redis-server")
    authority = Authority(tmp_path / "authority")
    with ExitStack() as stack:

        def start(address: str = LOOPBACK) -> EncryptedRedis:
            try:
                server = EncryptedRedis(program, authority, authority.sign("redis", address))
                server.start()
            except ServerUnavailable as error:
                services.missing(error)
            stack.callback(server.close)
            return server

        yield start


def test_the_view_is_filled_and_audited_over_tls(
    encrypted: Callable[..., EncryptedRedis],
    stage: Callable[..., Stage],
    sending: Callable[[Stage], Sending],
) -> None:
    """With the shipped user and the authority named in the address; shops read it likewise, and nobody without TLS."""
    server = encrypted()
    on = stage(redis_url=server.url_of("stockflow"))
    load = sending(on)
    load.start(stories(seed=71, partitions=on.partitions), per_second=300)
    pipeline = on.pipeline().start()
    on.wait_for_records(100)
    load.stop()
    on.wait_until_committed()
    on.redis_url = server.url_of("stockflow-audit")
    settle(on, load)
    assert pipeline.metric("stockflow_redis_connected") == 1
    keys = [record.key for record in on.read(AVAILABILITY) if record.key and record.value]
    sku, _, location = keys[-1].decode().partition("|")
    with redis.Redis.from_url(server.url_of("storefront")) as shop:
        assert json.loads(shop.hget(f"availability:{sku}", location))["location"] == location
    with redis.Redis(host=LOOPBACK, port=server.tls_port) as plain, pytest.raises(redis.ConnectionError):
        plain.ping()


@pytest.mark.parametrize(
    ("text", "address", "trusts_another", "says"),
    [
        ("signed by somebody else", LOOPBACK, True, "certificate verify failed"),
        ("made for another machine", "10.0.0.1", False, "IP address mismatch"),
    ],
)
def test_a_server_that_cannot_prove_who_it_is_gets_nothing(
    text: str,
    address: str,
    trusts_another: bool,
    says: str,
    encrypted: Callable[..., EncryptedRedis],
    stage: Callable[..., Stage],
    sending: Callable[[Stage], Sending],
    tmp_path: Path,
) -> None:
    """Events count and are published as without any Redis; the log says why, and never the password."""
    server = encrypted(address)
    other = Authority(tmp_path / "other", "another authority").certificate if trusts_another else None
    on = stage(redis_url=server.url_of("stockflow", other))
    load = sending(on)
    load.start(stories(seed=72, partitions=on.partitions), per_second=300)
    pipeline = on.pipeline().start()
    on.wait_for_records(50)
    settle(on, load, with_redis=False)
    assert pipeline.metric("stockflow_redis_connected") == 0
    log = pipeline.log_file.read_text()
    assert says in log
    assert PASSWORD not in log
    with redis.Redis.from_url(server.url_of("stockflow-audit") + "&ssl_check_hostname=false") as auditor:
        assert list(auditor.scan_iter()) == []

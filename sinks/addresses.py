"""What a Redis address says of its hosts, its credentials and its encryption, without opening anything."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

_TRUE = ("true", "True", "1", "yes")
_PASSWORDS = ("password", "sentinel_password")


@dataclass(frozen=True)
class RedisAddress:
    """The parts of a URL that decide who may listen. `hosts` is empty for a socket in the file system."""

    hosts: tuple[str, ...]
    has_password: bool
    encrypted: bool


def read_address(url: str) -> RedisAddress:
    """Take a URL of any supported scheme apart.

    Raises:
        ValueError: it is no URL.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    userinfo, _, nodes = parts.netloc.rpartition("@")
    hosts = () if parts.scheme == "unix" else tuple(host_of(node) for node in nodes.split(","))
    has_password = ":" in userinfo or any(name in query for name in _PASSWORDS)
    return RedisAddress(hosts, has_password, parts.scheme == "rediss" or asks_for_tls(query))


def asks_for_tls(query: dict[str, str]) -> bool:
    """Whether the parameters of a Sentinel or Cluster address switch TLS on, which have no scheme for it."""
    told = query.get("ssl")
    return told in _TRUE or (told is None and any(name.startswith("ssl_") for name in query))


def host_of(node: str) -> str:
    """The host in `host:port`, empty if there is none.

    Raises:
        ValueError: it is no address.
    """
    return urlsplit(f"//{node}").hostname or ""

"""How much a restore fetches ahead of its slices."""

from __future__ import annotations

from typing import Any

import pytest

from sources import restore
from sources.restore import Restorer
from tests.at_once import AtOnce


class Refused(Exception):
    """No client is made here."""


def test_a_restore_fetches_little_ahead_of_its_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A takeover beside live partitions needs no more memory than what it restores and a few megabytes."""
    asked: list[dict[str, Any]] = []

    def consumer(config: dict[str, Any]) -> None:
        asked.append(config)
        raise Refused

    monkeypatch.setattr(restore, "Consumer", consumer)
    restorer = Restorer({}, "state", "availability", "letters", "network", lambda *_: None, "me", 1, AtOnce())
    restorer.start(0, 1, None)
    with pytest.raises(Refused):
        restorer.step()
    assert [(one["queued.max.messages.kbytes"], one["fetch.queue.backoff.ms"]) for one in asked] == [(16_384, 5)]

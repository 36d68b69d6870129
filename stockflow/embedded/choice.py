"""Which broker a machine can have: real Kafka wherever Java and Maven allow it, never the substitute silently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stockflow.embedded.kafka import KafkaBroker
from stockflow.embedded.process import ServerUnavailable
from stockflow.embedded.tansu import TansuBroker


def best_broker(cache: Path, progress: Callable[[str], None] | None = None) -> KafkaBroker | TansuBroker:
    """Real Kafka if it can be had here, else Tansu; not started yet.

    Args:
        cache: folder of this user for what is downloaded once.
        progress: called with one line of text before something slow, and with the reason for falling back.

    Raises:
        ServerUnavailable: neither can be had; the text says what to install.
    """
    try:
        return KafkaBroker(cache, progress=progress)
    except ServerUnavailable as no_kafka:
        try:
            substitute = TansuBroker()
        except ServerUnavailable as no_tansu:
            raise ServerUnavailable(f"{no_kafka}\n{no_tansu}") from None
        if progress is not None:
            progress(f"{no_kafka}; using {substitute.description} instead")
        return substitute

"""A short run of the whole thing, and that its shops speak the contract."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from schemas.events import decode
from schemas.topics import KEYED_INPUTS, partition_of
from stock.events import StockFact
from stockflow.embedded import ServerUnavailable
from tests import services
from tests.soak.run import main
from tests.soak.shop import MIX, Shop, openings

NOW_US = 1_790_000_000_000_000
SHORT = ["--minutes", "0.4", "--balances", "2000", "--partitions", "6", "--rate", "200", "--sample-every", "1"]
SHORT += ["--fault-every", "16", "--faults", "kill", "--fault-seconds", "1", "--session", "6", "--seed", "7"]


def test_every_fact_of_the_shops_is_valid_and_in_its_partition() -> None:
    """Openings and the mix decode into facts of their topic; all kinds come, and a seed gives the same again."""
    topics = {topic.name: number for number, topic in enumerate(KEYED_INPUTS)}
    for partition, key, value in openings(100, 6, NOW_US):
        event = decode(1, value, NOW_US)
        assert isinstance(event, StockFact), event
        assert (partition, key) == (partition_of(event.sku, 6), event.sku.encode())
    shop, same = Shop(3, 1_000, 6), Shop(3, 1_000, 6)
    kinds: Counter[str] = Counter()
    for number in range(3_000):
        told = shop.tell(NOW_US + number * 1_000)
        assert told == same.tell(NOW_US + number * 1_000)
        event = decode(topics[told.topic], told.value, NOW_US + number * 1_000)
        assert isinstance(event, StockFact), event
        assert (told.partition, told.key, told.id) == (partition_of(event.sku, 6), event.sku.encode(), event.id)
        kinds[type(event).__name__] += 1
    assert len(kinds) == len(MIX) - 1  # a pick-up is a sale
    again = shop.tell_again()
    assert again is not None
    assert again.id == ""


@pytest.mark.kafka
@pytest.mark.redis
def test_a_short_run_with_one_kill_ends_exact_and_leaves_its_figures(tmp_path: Path) -> None:
    """Load, kill -9, takeover, restart: exit code 0, a report, samples as JSON lines and parquet."""
    text = io.StringIO()
    try:
        code = main([*SHORT, "--folder", str(tmp_path)], Console(file=text, width=130))
    except ServerUnavailable as error:
        services.missing(error)
    assert code == 0, text.getvalue()
    [folder] = tmp_path.iterdir()
    [fault] = json.loads((folder / "report.json").read_text())["faults"]
    assert fault["name"] == "kill"
    assert fault["took_s"].keys() == {"takeover", "ready", "shared", "all"}
    assert fault["balances"] > 0
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {row["process"] for row in rows} == {"survivor", "victim", "broker", "redis", "machine"}
    assert pl.read_parquet(folder / "samples.parquet").filter(pl.col("process") == "survivor")["rss"].min() > 0
    assert "no file descriptors leak" in (folder / "report.txt").read_text()

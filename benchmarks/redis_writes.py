"""How fast the Redis view is written, against what the server's own benchmark program reaches with the same script.

Both write the same number of records of the same size to new keys of an empty database, as many per script call and as
many calls per round trip, over one connection. stockflow's records have been delivered and wait, as while Redis was
away; counted is what the view's thread then does: it packs, sends, waits and takes note of what is written. The other
has its bytes ready and notes nothing. Turns alternate.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path
from statistics import median

import redis
from rich.console import Console

from benchmarks import figures
from benchmarks.rig import ROOT, wait_for_calm
from sinks.redis_view import RECORDS_PER_TRIP, RedisView
from sinks.view_store import RECORDS_PER_CALL, WRITE_SCRIPT, RedisStore
from stockflow.embedded import RedisServer
from stockflow.embedded.process import LOOPBACK

VIEW, REFERENCE = "stockflow", "redis-benchmark"
PROGRAMS = ("valkey-benchmark", "redis-benchmark")
RECORDS = 90_000  # Fewer than the view lets wait.
BAR = 0.7
POLL_S = 0.001
DIGITS = 12  # Of a random number, as redis-benchmark writes it.
RANDOM = "__rand_int__"
REST = (
    '"status":"IN_STOCK","reason":null,"status_ship":"IN_STOCK","status_pickup":"IN_STOCK","available_to_ship":17,'
    '"available_in_store":17,"on_hand":20,"unavailable":0,"committed":3,"in_transit":0,"inbound":0,"next_inbound_at":null,'
    '"safety_stock_ship":0,"safety_stock_pickup":0,"cause":{"type":"pos.sale","id":"s-000001234567","source":"pos/STORE-1/7",'
    '"occurred_at":"2026-01-01T00:00:00.000000Z"},"changed_at":"2026-01-01T00:00:00.000000Z"}'
)


class NothingToCompareWith(RuntimeError):
    """There is no benchmark program of Redis or Valkey that runs; the text says why, or how to get one."""


class NoTopic:
    """An empty topic: there is nothing to read again."""

    def read(self, partition: int, first: int | None) -> Iterator[list[tuple[str, bytes | None, int]]]:
        """No batch."""
        return iter(())


def reference_program() -> str:
    """The server's own benchmark program.

    Raises:
        NothingToCompareWith: there is none.
    """
    fetched = ROOT / ".cache" / "k8s-tools" / "bin" / "redis-benchmark"
    found = [path for name in PROGRAMS if (path := shutil.which(name))] + ([str(fetched)] if fetched.exists() else [])
    if not found:
        raise NothingToCompareWith("no redis-benchmark: install Redis' or Valkey's tools, or run `make k8s-tools`")
    return found[0]


def value_of(number: str) -> str:
    """A record of usual size with a number of `DIGITS` digits in it."""
    return f'{{"version":{number},"sku":"SKU-{number}","location":"STORE-1",{REST}'


def by_the_view(server: RedisServer, records: int) -> float:
    """Seconds that the view needs to write so many records that wait, its connection included."""
    keys = [f"SKU-{number:0{DIGITS}}|STORE-1" for number in range(records)]
    values = [value_of(str(number + 10 ** (DIGITS - 1))).encode() for number in range(records)]
    view = RedisView(RedisStore(server.url), NoTopic())
    view.own(0, 1)
    for offset, (key, value) in enumerate(zip(keys, values, strict=True)):
        view.delivered(0, key, value, offset, 0)
    begin = time.monotonic()
    view.start()
    try:
        while view.stats.backlog:
            time.sleep(POLL_S)
        seconds = time.monotonic() - begin
        assert (view.stats.writes, view.stats.refused_older, view.stats.dropped) == (records, 0, 0)
    finally:
        view.stop(5)
    return seconds


def by_the_reference(server: RedisServer, program: str, records: int) -> float:
    """Seconds that the server's own program needs for as many records."""
    keys = [f"availability:SKU-{RANDOM}-{number:03}" for number in range(RECORDS_PER_CALL)]
    pairs = [text for _ in range(RECORDS_PER_CALL) for text in ("STORE-1", value_of(RANDOM))]
    calls = records // RECORDS_PER_CALL
    done = subprocess.run(
        [
            *(program, "-h", LOOPBACK, "-p", str(server.port), "-c", "1", "-n", str(calls), "--csv"),
            *("-r", str(10**9), "-P", str(RECORDS_PER_TRIP // RECORDS_PER_CALL)),
            *("EVALSHA", sha1(WRITE_SCRIPT.encode()).hexdigest(), str(RECORDS_PER_CALL), *keys, *pairs),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise NothingToCompareWith(f"{program} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    # The command, with quotes of its own, then requests per second and six latencies.
    per_second, *_ = done.stdout.strip().rpartition("\n")[2].rsplit('","', 7)[1:]
    return calls / float(per_second)


def measure(server: RedisServer, program: str, records: int, rounds: int, calm_s: float) -> list[dict[str, float]]:
    """Records per second of both, in turns."""
    found = []
    with redis.Redis.from_url(server.url) as admin:
        for number in range(rounds):
            rates: dict[str, float] = {}
            for name in (VIEW, REFERENCE) if number % 2 == 0 else (REFERENCE, VIEW):
                admin.flushall()
                admin.script_load(WRITE_SCRIPT)
                wait_for_calm(calm_s)
                spent = by_the_view(server, records) if name == VIEW else by_the_reference(server, program, records)
                rates[name] = records / spent
                assert admin.dbsize() >= records
            found.append(rates)
    return found


def main() -> int:
    """Measure and show."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--records", type=int, default=RECORDS)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--calm", type=float, default=0, help="seconds to wait, if need be, for an idle machine")
    chosen = options.parse_args()
    console = Console(soft_wrap=True)
    try:
        program = reference_program()
        with RedisServer() as server:
            console.print(f"{server.description}; {Path(program).name}; {len(value_of('1' * DIGITS))} bytes a record")
            rounds = measure(server, program, chosen.records, chosen.rounds, chosen.calm)
    except NothingToCompareWith as error:
        console.print(str(error), markup=False)
        return 2
    for name in (VIEW, REFERENCE):
        console.print(f"{name}: {median(one[name] for one in rounds):,.0f} records/s")
    found = figures.ratio(rounds, VIEW, REFERENCE)
    console.print(f"{found['value']:.2f} of it ({found['low']:.2f} - {found['high']:.2f}); bar {BAR}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

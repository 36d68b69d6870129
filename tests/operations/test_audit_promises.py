"""The audit of answers: which made a hold, which told of one, and which contradict what was promised."""

from __future__ import annotations

from typing import Any

import pytest

from operations.audit.answers import Answers
from operations.audit.facts import frame
from operations.audit.inputs import DeadLetters, Inputs
from operations.audit.log import LogRecord
from operations.audit.promises import settle
from operations.audit.recompute import Moment, recompute
from operations.audit.report import Findings
from schemas.records import ReservationVerdict, encode, micros
from schemas.topics import KEYED_INPUTS, RESERVATION_VERDICTS, STOCK_SETTINGS
from sinks.outlet import verdict_of
from stock.events import ReservationRequested, StockFact
from stock.ledger import Ledger
from stock.policies import Policies
from tests.oracle import Delisted, topic_of
from tests.stock.facts import at, fact, hold, renewed, us
from tests.strategies import World, random_history, to_wire
from tests.test_ledger_against_oracle import TOPICS, take, take_setting

WITH_RETRIES = (1, 3, 5, 6, 9)  # of the random histories, some in which somebody is told of a promise again
LATE = Moment(us(10_000), us(10_000))


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def request(seconds: float, units: int, **own: Any) -> StockFact:
    """Somebody wants R."""
    return fact("reservation.requested", seconds, units, **own)


def answer(to: StockFact, units: int, verdict: str = "accepted", where: str = "A") -> ReservationVerdict:
    """What a request was told."""
    assert isinstance(to, ReservationRequested)
    said = (where, to.mode, verdict, units, 0, to.expires_at, None, None, None, [])
    return ReservationVerdict(to.reservation, to.line, to.id, to.sku, *said)  # type: ignore[arg-type]


def audited(facts: list[StockFact], answers: list[ReservationVerdict]) -> tuple[int, list[str]]:
    """Units committed at A in the end, and what is wrong."""
    findings = Findings()
    told = Answers(findings)
    told.add(LogRecord(RESERVATION_VERDICTS.name, 0, 0, 0, b"", encode(one)) for one in answers)
    inputs = Inputs(1, DeadLetters(lambda name: name, findings), told, findings)
    for offset, one in enumerate(facts):
        topic, key, value = to_wire(one)
        inputs.add_facts([LogRecord(topic, 0, offset, micros(one.occurred_at) // 1_000, key.encode(), value)])
    recomputed = recompute(inputs.facts(), LATE)
    told.report_unanswered(recomputed.requests)
    told.report_contradictions()
    bound = {row["location"]: row["committed"] for row in recomputed.balances.iter_rows(named=True)}
    return bound.get("A", 0), findings.kept + recomputed.problems


R1, R2 = request(1, 3, id="r-1"), request(9, 3, id="r-2")
ENDING = request(1, 3, id="r-1", expires_at=at(5))

# The facts, what the requests were told, then what is bound at A, and a word of each difference.
ANSWERED: list[Any] = [
    case("granted", [R1], [answer(R1, 3)], 3, []),
    case("told of what was promised", [R1, R2], [answer(R1, 3), answer(R2, 3)], 3, []),
    case("told of it after a pick-up", [R1, fact("pos.sale", 2, 3, reservation="R"), R2],
         [answer(R1, 3), answer(R2, 3)], 0, []),
    case("granted anew after a release", [R1, fact("reservation.released", 9), R2],
         [answer(R1, 3), answer(R2, 3)], 3, []),
    case("refused after a release", [R1, fact("reservation.released", 9), R2],
         [answer(R1, 3), answer(R2, 0, "rejected")], 0, []),
    case("told of what a release left", [R1, fact("reservation.released", 2, 1), R2],
         [answer(R1, 3), answer(R2, 2, "partial")], 2, []),
    case("granted anew after its end", [ENDING, R2], [answer(ENDING, 3), answer(R2, 3)], 3, []),
    case("told of what was renewed", [ENDING, renewed(4, 99), R2], [answer(ENDING, 3), answer(R2, 3)], 0, []),
    case("granted anew after others decided", [R1, hold(9, 5), R2], [answer(R1, 3), answer(R2, 3)], 3, []),
    case("granted behind a release of a later time", [fact("reservation.released", 20), R1], [answer(R1, 3)], 3, []),
    case("released behind it", [R1, fact("reservation.released", 1)], [answer(R1, 3)], 0, []),
    case("what was held before it was allocated", [hold(0, 5), fact("order.allocated", 1, 2, reservation="R"), R1],
         [answer(R1, 3)], 5, []),
    case("allocated before anything was held", [fact("order.allocated", 20, 2, reservation="R"), R1],
         [answer(R1, 3)], 3, []),
    case("no answer", [R1], [], 0, ["has no answer"]),
    case("two answers", [R1], [answer(R1, 3), answer(R1, 0, "rejected")], 3, ["answered twice"]),
    case("more than was asked for", [R1], [answer(R1, 4)], 4, ["asks for 3 and was granted 4"]),
    case("less than was asked for, and called all", [R1], [answer(R1, 2)], 2, ["asks for 3 and was granted 2"]),
    case("a part", [R1], [answer(R1, 2, "partial")], 2, []),
    case("refused what stands promised", [R1, R2], [answer(R1, 3), answer(R2, 0, "rejected")], 3, ["stood promised"]),
    case("told of a place where nothing is", [R1, R2], [answer(R1, 3), answer(R2, 3, where="B")], 3,
         ["stood promised at A"]),
    case("told of more than is left", [R1, fact("reservation.released", 2, 1), R2],
         [answer(R1, 3), answer(R2, 3)], 2, ["2 stood promised"]),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "answers", "bound", "wrong"), ANSWERED)
def test_answers_are_judged_by_what_stands_promised(
    facts: list[StockFact], answers: list[ReservationVerdict], bound: int, wrong: list[str]
) -> None:
    """And only those that made a hold bind units."""
    committed, problems = audited(facts, answers)
    assert committed == bound
    assert len(problems) == len(wrong), problems
    assert all(word in text for word, text in zip(wrong, problems, strict=True)), problems


def test_requests_of_two_sources_may_have_one_id() -> None:
    """An answer names no source: the first answer belongs to the first of them."""
    shop, app = request(1, 3, id="7", source="shop"), request(2, 2, id="7", source="app")
    refused, granted = answer(shop, 0, "rejected"), answer(app, 2)
    assert audited([shop, app], [refused, granted, refused, granted]) == (2, [])
    assert audited([shop, app], [answer(shop, 3), answer(app, 3, "accepted")]) == (3, [])
    three = [refused, granted, answer(app, 1, "partial")]
    assert audited([shop, app], three)[1] == ["verdicts: SKU R 7 was answered twice, and not alike"]


def test_without_requests_nothing_is_settled() -> None:
    """Facts stay as they are."""
    settled = settle(frame([]))
    assert (settled.facts.height, settled.problems) == (0, [])


@pytest.mark.parametrize("seed", range(30))
def test_the_audit_agrees_with_what_was_decided(seed: int) -> None:
    """Whatever is told, retried, released and picked up: answers contradict nothing, and the same units are bound."""
    history = random_history(seed, 300, World(settings_percent=5, items_percent=2))
    findings, policies = Findings(), Policies()
    ledger, logs = Ledger(policies), [[] for _ in KEYED_INPUTS]  # type: ignore[var-annotated]
    for told in history.told:
        topic, key, value = to_wire(told.message)
        if topic_of(told.message) is STOCK_SETTINGS:
            take_setting(policies, key, value)
            continue
        position, now_us = TOPICS[topic], micros(told.at)
        ledger.advance(now_us)
        record = LogRecord(topic, 0, len(logs[position]), now_us // 1_000, key.encode(), value)
        logs[position].append(record)
        take(ledger, position, record.offset, record.key or b"", value, record.timestamp_ms * 1_000)
        assert not isinstance(told.message, Delisted) or value is None
    verdicts = [encode(verdict_of(sku, decision)) for sku, decision in ledger.answers]
    answers = Answers(findings)
    answers.add(LogRecord(RESERVATION_VERDICTS.name, 0, n, 0, b"", value) for n, value in enumerate(verdicts))
    inputs = Inputs(1, DeadLetters(lambda name: name, findings), answers, findings)
    for log in logs:
        inputs.add_facts(log)
    now_us = micros(history.now)
    ledger.advance(now_us)
    recomputed = recompute(inputs.facts(), Moment(now_us, now_us))
    answers.report_contradictions()
    assert (findings.kept, recomputed.problems) == ([], []), f"seed {seed}"
    bound = {
        f"{row['sku']}|{row['location']}": row["committed"]
        for row in recomputed.balances.filter(alternative=0).iter_rows(named=True)
    }
    assert bound == {key: ledger.look(key).committed for key in ledger.keys()}, f"seed {seed}"  # noqa: SIM118
    assert any(decision.repeats for _, decision in ledger.answers) or seed not in WITH_RETRIES

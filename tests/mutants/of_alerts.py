"""Bugs in what becomes an alert: when it opens, what ends it, and what a restart or another order of topics makes of it."""

from __future__ import annotations

from tests.mutants.mutant import bug

ALERTS, DOUBTS, LEDGER, OUTLET = "stock/alerts.py", "stock/doubts.py", "stock/ledger.py", "sinks/outlet.py"
COMMITMENTS, ORDERS, SUPPLY = "stock/commitments.py", "stock/orders.py", "stock/supply.py"
DOUBT_TESTS, OUTLET_TESTS = "tests/stock/test_doubts.py", "tests/sinks/test_outlet_alerts.py"

ALERT_BUGS = (
    bug(
        "count_alert_lands_beside_its_balance",
        "section 7: alerts durable first",
        "A crash between both loses the alert: the count is in the state and is not compared again.",
        (OUTLET, "key.startswith((JOURNAL_PREFIX, ALERT_PREFIX))", "key.startswith(JOURNAL_PREFIX)"),
        caught_by=OUTLET_TESTS,
        unseen_because="a process must die between two records of one stage, and its count must not be read again",
    ),
    bug(
        "doubts_are_judged_during_a_replay",
        "section 7: expiries wait for the replay",
        "What names a hold that is read a moment later is told to be unclaimed.",
        (
            OUTLET,
            "        if touched:\n            self._send(touched.items(), now, now_us, False)\n"
            "        if not self.catching_up and self.ledger.has_suspects:\n",
            "        if touched:\n            self._send(touched.items(), now, now_us, False)\n"
            "        if self.ledger.has_suspects:\n",
        ),
        caught_by=OUTLET_TESTS,
        unseen_because="an alert that opens and closes once more is no contradiction",
    ),
    bug(
        "references_are_not_looked_at_after_a_restart",
        "section 7: alerts restored",
        "An alert whose end was not durable as its process died stays open for ever.",
        (LEDGER, "        for key in self.alerts.about:\n            self._suspect(key)\n", ""),
    ),
    bug(
        "doubts_have_no_timer_after_a_restart",
        "alerts: timers of doubts",
        "What becomes due after a restart is never told.",
        (
            COMMITMENTS,
            "        self._doubt(key)\n        if isinstance(order, OrderLine):\n",
            "        if isinstance(order, OrderLine):\n",
        ),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "orphans_of_days_are_not_found",
        "alerts: orphaned allocation",
        "What is due later than a closed hold is kept is not looked at when it is.",
        (COMMITMENTS, "                if doubt.due_us <= look_us:\n", "                if False:\n"),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "alert_of_a_reference_never_ends",
        "alerts: closes when stated, consumed or released",
        "Facts that settle a doubt do not end its alert.",
        (LEDGER, "        if self.alerts.about:\n", "        if False:\n"),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "forgotten_references_stay_alerted",
        "alerts: closes when forgotten",
        "An alert about what nobody remembers any more stays open.",
        (
            COMMITMENTS,
            "        self._dirty[key] = None\n        self.suspects[key] = None\n",
            "        self._dirty[key] = None\n",
        ),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "statement_does_not_settle_a_hold",
        "alerts: unclaimed",
        "What was asked in vain before the newest statement counts for ever.",
        (
            ORDERS,
            "                location, left, end = f.location, units or 0, f.expires_at_us\n"
            "                if missing is not None:\n                    missing.units = 0\n",
            "                location, left, end = f.location, units or 0, f.expires_at_us\n",
        ),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "void_gives_nothing_back_to_a_doubt",
        "alerts: unclaimed",
        "A line stays in doubt for a sale that was voided.",
        (ORDERS, 'missing.give(units) if kind == "given_back" else', 'None if kind == "given_back" else'),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "lost_goods_are_never_found",
        "alerts: transfer_short",
        "What turns up after a final receipt stays missing.",
        (
            SUPPLY,
            "                lost -= min(lost, f.units - sum(units for _, units in taken))\n                if f.final:\n",
            "                if f.final:\n",
        ),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "count_is_compared_with_what_is_there_now",
        "alerts: count_variance",
        "What was sold after the moment of a count counts as missing.",
        (LEDGER, "expected = balance.on_hand - movements.since(count[0])", "expected = balance.on_hand"),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "what_came_back_is_not_expected",
        "alerts: count_variance",
        "What a cancelled transfer gave back counts as found.",
        (LEDGER, "            expected += sum(one.units for one in back", "            sum(one.units for one in back"),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "first_count_is_compared",
        "alerts: count_variance",
        "Each first count of a key is an alert.",
        (
            LEDGER,
            "        if balance.flags & HAS_BASELINE:\n            expected",
            "        if True:\n            expected",
        ),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "good_count_ends_no_alert",
        "alerts: count_variance",
        "A variance is open for ever.",
        (LEDGER, 'self.alerts.close_all(key, "count_variance", at_us)', "pass"),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "lone_locations_are_unknown",
        "alerts: unknown_location",
        "Who describes no location has an alert for each.",
        (LEDGER, "        if not policies.describes_locations:\n            return {}\n", ""),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "low_stock_of_the_worse_mode",
        "alerts: low_stock",
        "Safety stock of one mode makes an alert of what the other has plenty of.",
        (
            ALERTS,
            "    better = seen.better\n",
            "    better = seen.ship if seen.ship.status >= seen.pickup.status else seen.pickup\n",
        ),
        caught_by=DOUBT_TESTS,
    ),
    bug(
        "alerts_of_quiet_keys_do_not_end",
        "alerts: looked at when rules change",
        "A lowered limit makes no alert of a key without another change.",
        (
            OUTLET,
            "key in alerts or with_reorder_point or may_have_alerts(seen):\n                self",
            "key in alerts:\n                self",
        ),
        caught_by=OUTLET_TESTS,
    ),
    bug(
        "alerts_without_bound",
        "alerts: bounded",
        "A location that is misread fills the memory with alerts.",
        (ALERTS, "        if self.open_by_kind.get(kind, 0) >= OPEN_MAX:\n", "        if False:\n"),
        caught_by=DOUBT_TESTS,
    ),
)

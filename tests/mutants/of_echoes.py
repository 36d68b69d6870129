"""Bugs in what is told twice and in counts that leave something out."""

from __future__ import annotations

from tests.mutants.mutant import bug

ECHOED, ORDERS, LEDGER = "stock/echoes.py", "stock/orders.py", "stock/ledger.py"
COMMITMENTS, BALANCE, NUMBERS = "stock/commitments.py", "stock/balance.py", "stock/availability.py"
ECHO_TESTS, NET_TESTS = "tests/stock/test_echoes.py", "tests/stock/test_net_counts.py"

ECHOES = (
    bug(
        "what_two_systems_tell_adds_up",
        "rules: echo",
        "Units that a till and a warehouse both tell of leave twice.",
        (
            ECHOED,
            "        was, level = level, max(sums.values())\n",
            "        was, level = level, sum(sums.values())\n",
        ),
        caught_by=ECHO_TESTS,
    ),
    bug(
        "who_told_nothing_yet_told_zero",
        "rules: echo",
        "A void of what is not known has no effect.",
        (
            ECHOED,
            "        was, level = level, max(sums.values())\n",
            "        was, level = level, max(0, *sums.values())\n",
        ),
        caught_by=ECHO_TESTS,
    ),
    bug(
        "an_order_line_is_taken_from_twice",
        "rules: echo",
        "What two systems tell of one line is taken off its allocation twice.",
        (ORDERS, "        if f.echo is None or f.units is None:\n", "        if True:\n"),
        caught_by=ECHO_TESTS,
    ),
    bug(
        "a_group_is_ahead_of_its_balance",
        "rules: echo",
        "After a restart a fact that is durable in the group and not in the balance is lost.",
        (
            ECHOED,
            "[told for told in _decoder.decode(packed) if told.offset <= applied[told.topic]]",
            "list(_decoder.decode(packed))",
        ),
        caught_by=ECHO_TESTS,
    ),
    bug(
        "groups_are_durable_after_their_balance",
        "rules: echo",
        "A crash in a flush keeps a balance and loses what it has taken in.",
        (LEDGER, "        records.extend(self.echoes.flush())\n", ""),
        (
            LEDGER,
            "        records.extend(self.alerts.flush())\n",
            "        records.extend(self.alerts.flush())\n        records.extend(self.echoes.flush())\n",
        ),
        caught_by=ECHO_TESTS,
    ),
    bug(
        "groups_land_beside_their_balance",
        "rules: echo",
        "A cut whose stage lands in part keeps a balance and loses what it has taken in.",
        ("sinks/outlet.py", " or is_echo_key(key)\n", "\n"),
        caught_by="tests/test_ledger_against_oracle.py",
    ),
    bug(
        "a_late_count_does_not_know_groups",
        "rules: echo",
        "After a restart a late count takes what was told in groups for nothing.",
        (LEDGER, "            self._remember(at, past, time_us, units)\n", "            pass\n"),
        caught_by=ECHO_TESTS,
    ),
    bug(
        "forgotten_groups_are_not_told",
        "rules: echo",
        "A count from before a forgotten group counts it off again.",
        (ECHOED, "                self.forgotten_us = max(self.forgotten_us, newest_us)\n", ""),
        caught_by=ECHO_TESTS,
    ),
    bug(
        "a_net_count_is_gross",
        "rules: net counts",
        "What a net count left out is missing on hand.",
        (NUMBERS, "    if balance.net is not None:\n", "    if False:\n"),
        caught_by=NET_TESTS,
    ),
    bug(
        "a_net_count_forgets_allocations",
        "rules: net counts",
        "After a restart what was allocated when a net count was taken is missing on hand.",
        (LEDGER, "        yield from self.commitments.restored()\n", ""),
        caught_by=NET_TESTS,
    ),
    bug(
        "late_moves_do_not_change_what_was_left_out",
        "rules: net counts",
        "Units that were damaged before a net count and told after it are missing on hand.",
        (LEDGER, "            then[state] += units\n", "            pass\n"),
        caught_by=NET_TESTS,
    ),
    bug(
        "a_net_count_leaves_out_what_came_later",
        "rules: net counts",
        "What was damaged after a net count is taken for damaged before it.",
        (BALANCE, "        if at_us >= time_us:\n            now[state] -= units\n", "        pass\n"),
        caught_by=NET_TESTS,
    ),
    bug(
        "late_allocations_do_not_change_what_was_left_out",
        "rules: net counts",
        "An allocation told after the net count that left it out is missing on hand.",
        (
            COMMITMENTS,
            "        return bound + self._allocate_then(then, self._left_then(sku, line))\n",
            "        return bound\n",
        ),
        caught_by=NET_TESTS,
    ),
    bug(
        "an_order_line_under_a_net_count_is_forgotten",
        "rules: net counts",
        "A day after it closed an order line vanishes from the count that left it out.",
        (
            COMMITMENTS,
            "bool(order.left()) or any(self._left_then(sku, order).values())",
            "bool(order.left())",
        ),
        caught_by=NET_TESTS,
    ),
)

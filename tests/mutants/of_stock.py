"""Bugs in what a fact does to a balance, a hold, a number: DESIGN's rules of the trade."""

from __future__ import annotations

from tests.mutants.mutant import bug

LEDGER = "stock/ledger.py"
BALANCE = "stock/balance.py"
COMMITMENTS = "stock/commitments.py"
ORDERS = "stock/orders.py"
NUMBERS = "stock/availability.py"
EFFECTS = "stock/effects.py"
RECENT = "stock/recent.py"
SUPPLY = "stock/supply.py"
POLICIES = "stock/policies.py"
OUTLET = "sinks/outlet.py"

STOCK = (
    bug(
        "dedup_is_skipped",
        "rules: duplicates",
        "A fact that is told twice moves stock twice.",
        (LEDGER, "        if id_hash in recent.ids:\n", "        if False:\n"),
        caught_by="tests/stock/test_ledger.py",
    ),
    bug(
        "dedup_ignores_the_source",
        "rules: duplicates",
        "Two sources that use the same id are taken for one that repeats itself.",
        (LEDGER, 'f"{sku}\\0{event.source}\\0{event.id}"', 'f"{sku}\\0{event.id}"'),
        caught_by="tests/stock/test_ledger.py",
    ),
    bug(
        "dedup_ignores_the_sku",
        "rules: duplicates",
        "One delivery note with lines of several SKUs counts for the first of them only.",
        (LEDGER, 'f"{sku}\\0{event.source}\\0{event.id}"', 'f"{event.source}\\0{event.id}"'),
        caught_by="tests/stock/test_ledger.py",
    ),
    bug(
        "count_ignores_later_movements",
        "rules: count barrier",
        "A count that arrives late forgets the sales since.",
        (BALANCE, "units + movements.since(count[0])", "units"),
        caught_by="tests/stock/test_balance.py",
    ),
    bug(
        "equal_time_counts_as_earlier",
        "rules: count barrier",
        "A sale of the same moment as the count is taken for included.",
        (BALANCE, "count is not None and time_us < count[0]", "count is not None and time_us <= count[0]"),
        caught_by="tests/stock/test_balance.py",
    ),
    bug(
        "equal_time_is_not_on_top",
        "rules: count barrier",
        "A count that arrives after a sale of its own moment forgets it.",
        (BALANCE, "strict=True) if at >= time_us)", "strict=True) if at > time_us)"),
        caught_by="tests/stock/test_balance.py",
    ),
    bug(
        "absorbed_movement_counts",
        "rules: count barrier",
        "A sale from before the count lowers what was counted after it.",
        (
            BALANCE,
            "time_us < count[0]:\n        return False",
            "time_us < count[0]:\n        balance.on_hand += units\n        return False",
        ),
        caught_by="tests/stock/test_balance.py",
    ),
    bug(
        "older_count_wins",
        "rules: statements win by time",
        "A count that was late replaces a newer one.",
        (BALANCE, "balance.count is not None and count < balance.count", "False"),
        caught_by="tests/stock/test_balance.py",
    ),
    bug(
        "count_beyond_the_log_is_applied",
        "rules: count barrier",
        "A count so late that movements after it are forgotten is applied without them.",
        (BALANCE, "count[0] <= balance.moved_us and count[0] <=", "False and count[0] <="),
        caught_by="tests/stock/test_balance.py",
    ),
    bug(
        "forgotten_movements_are_not_noted",
        "rules: count barrier",
        "A count from before what the partition has forgotten is taken for one that can be applied.",
        (
            LEDGER,
            "self.totals.forgotten_us = max(self.totals.forgotten_us, time_us)",
            "self.totals.forgotten_us = self.totals.forgotten_us",
        ),
        caught_by="tests/stock/test_ledger_state.py",
    ),
    bug(
        "hold_is_consumed_twice",
        "rules: holds and claims",
        "A sale larger than its hold leaves the hold below zero, so more seems to be available.",
        (ORDERS, "left if f.units is None else min(f.units, left)", "left if f.units is None else f.units"),
        caught_by="tests/stock/test_orders.py",
    ),
    bug(
        "claim_before_its_hold_is_lost",
        "rules: holds and claims",
        "A pick-up told at the moment of its reservation does not lower the hold.",
        (ORDERS, '{"stated": 0, "arrived": 1', '{"stated": 2, "arrived": 1'),
        caught_by="tests/stock/test_orders.py",
    ),
    bug(
        "void_of_the_same_moment_finds_nothing",
        "rules: holds and claims",
        "A void told at the moment of its sale gives nothing back to the order line.",
        (ORDERS, '"given_back": 2}', '"given_back": 0}'),
        caught_by="tests/stock/test_orders.py",
    ),
    bug(
        "void_gives_back_more_than_was_taken",
        "rules: holds and claims",
        "A void raises an order line above what was ever allocated.",
        (ORDERS, "moved = min(units, cell[1])", "moved = units"),
        caught_by="tests/stock/test_orders.py",
    ),
    bug(
        "other_locations_come_first",
        "rules: holds and claims",
        "A shipment consumes the allocation of another location before its own.",
        (ORDERS, "(location != own, location)", "(location == own, location)"),
        caught_by="tests/stock/test_orders.py",
    ),
    bug(
        "moved_hold_binds_twice",
        "rules: identity",
        "A hold that is created anew elsewhere binds units at both locations.",
        (COMMITMENTS, "{was_at: -before, hold.location: after}", "{hold.location: after}"),
        caught_by="tests/stock/test_commitments.py",
    ),
    bug(
        "hold_outlives_its_end_by_a_moment",
        "rules: expiry",
        "At expires_at itself the hold still binds.",
        (ORDERS, "self.expires_at_us <= clock_us", "self.expires_at_us < clock_us"),
        caught_by="tests/stock/test_orders.py",
    ),
    bug(
        "renewal_after_the_end_counts",
        "rules: expiry",
        "A renewal said after the hold's end opens it again.",
        (ORDERS, "(end is None or f.time_us < end)", "(end is None or f.time_us >= 0)"),
        caught_by="tests/stock/test_orders.py",
    ),
    bug(
        "expiry_is_forgotten_on_restore",
        "rules: expiry",
        "A hold whose owner restarted never ends.",
        (
            COMMITMENTS,
            "heappush(self._timers, (order.expires_at_us, _EXPIRE, key))\n        self._bind",
            "pass\n        self._bind",
        ),
        caught_by="tests/stock/test_commitments.py",
    ),
    bug(
        "clock_set_back_counts",
        "rules: expiry",
        "Holds that have ended bind again when the clock is set back.",
        (COMMITMENTS, "        now_us = max(now_us, self.clock_us)\n", ""),
        caught_by="tests/stock/test_commitments.py",
    ),
    bug(
        "stored_clock_is_believed",
        "rules: expiry",
        "The wrong clock of one machine ends holds early for ever.",
        (LEDGER, "min(self.totals.clock_us, now_us)", "self.totals.clock_us"),
        caught_by="tests/stock/test_ledger_state.py",
    ),
    bug(
        "void_counts_when_it_was_said",
        "rules: voids",
        "A sale from before the count, voided after it, adds to the counted stock.",
        (EFFECTS, "micros(event.voided_at)", "micros(event.occurred_at)"),
        caught_by="tests/stock/test_effects.py",
    ),
    bug(
        "negative_counter_adds_stock",
        "rules: numbers",
        "More units written off as damaged than were marked so raise what can be sold.",
        (BALANCE, "max(0, self.damaged)", "self.damaged"),
        caught_by="tests/stock/test_balance.py",
    ),
    bug(
        "committed_units_are_sold",
        "rules: numbers",
        "Held and allocated units count as available.",
        (NUMBERS, "    raw = physical - committed\n", "    raw = physical\n"),
        caught_by="tests/stock/test_availability.py",
    ),
    bug(
        "safety_stock_is_off_by_one",
        "rules: numbers",
        "The last unit of the safety stock is sold.",
        (NUMBERS, "available = raw - safety_stock", "available = raw - safety_stock + (safety_stock > 0)"),
        caught_by="tests/stock/test_availability.py",
    ),
    bug(
        "buffer_replaces_safety_stock",
        "rules: numbers",
        "A buffer is not added on top of the safety stock.",
        (POLICIES, "(safety_stock or 0) + on_top", "max(safety_stock or 0, on_top)"),
        caught_by="tests/stock/test_policies.py",
    ),
    bug(
        "missing_is_zero",
        "rules: status",
        "A key without count or receipt is OUT_OF_STOCK instead of UNKNOWN.",
        (NUMBERS, "    if not known or terms.stale:\n", "    if terms.stale:\n"),
        caught_by="tests/stock/test_availability.py",
    ),
    bug(
        "hysteresis_is_forgotten",
        "rules: hysteresis",
        "A key leaves LOW_STOCK as soon as it is above the entering bound.",
        (NUMBERS, "(was_low and available < terms.exit)", "(False and available < terms.exit)"),
        caught_by="tests/stock/test_availability.py",
    ),
    bug(
        "hysteresis_exit_is_off_by_one",
        "rules: hysteresis",
        "At the leaving bound itself a key is still LOW_STOCK.",
        (NUMBERS, "(was_low and available < terms.exit)", "(was_low and available <= terms.exit)"),
        caught_by="tests/stock/test_availability.py",
    ),
    bug(
        "low_stock_enter_is_off_by_one",
        "rules: hysteresis",
        "At the entering bound itself a key is not LOW_STOCK.",
        (NUMBERS, "low = available <= terms.enter", "low = available < terms.enter"),
        caught_by="tests/stock/test_availability.py",
    ),
    bug(
        "band_is_judged_per_record",
        "rules: hysteresis",
        "A key that was LOW between two records is published as if it had never been.",
        (LEDGER, "            if self.policies.banded:\n                self._step_band(key, balance)\n", ""),
        caught_by="tests/stock/test_ledger.py",
    ),
    bug(
        "worse_mode_speaks",
        "rules: status",
        "A record shows the status of the worse mode.",
        (NUMBERS, "self.ship.status <= self.pickup.status", "self.ship.status >= self.pickup.status"),
        caught_by="tests/stock/test_availability.py",
    ),
    bug(
        "sold_out_is_routine",
        "rules: lanes",
        "Selling out waits in the routine lane.",
        (NUMBERS, "return _kind(was >> 3) != _kind(now >> 3) or", "return False and"),
        caught_by="tests/stock/test_availability.py",
    ),
    bug(
        "urgent_waits_for_its_interval",
        "rules: lanes",
        "A change that a shopper would notice waits if the key was published lately.",
        (OUTLET, "if held and not urgent:", "if held:"),
        caught_by="tests/sinks/test_outlet.py",
    ),
    bug(
        "change_is_judged_by_what_was_acknowledged",
        "rules: emit only on change",
        "Numbers that return to an older record while a newer one is in flight are not published.",
        (OUTLET, "latest.get(key) or (balance.digest, balance.published)", "(balance.digest, balance.published)"),
        caught_by="tests/sinks/test_outlet_regressions.py",
    ),
    bug(
        "digest_leaves_out_the_policy",
        "rules: emit only on change",
        "A record goes on naming a policy that no longer decides.",
        (OUTLET, "better.reason, better.policy, ship.available", "better.reason, ship.available"),
        caught_by="tests/sinks/test_outlet.py",
    ),
    bug(
        "receipt_is_not_kept_as_cause",
        "rules: emit only on change",
        "A receipt that is published together with a later sale is not told to backorder releasers.",
        (
            LEDGER,
            "_KEPT_CAUSES = frozenset({PosReturn, WmsReceipt, TransferReceived})",
            "_KEPT_CAUSES = frozenset({PosReturn})",
        ),
        caught_by="tests/stock/test_ledger.py",
    ),
    bug(
        "least_specific_policy_wins",
        "rules: policies",
        "A policy for everywhere overrides that of one SKU.",
        (POLICIES, "return sum(missing), missing,", "return -sum(missing), missing,"),
        caught_by="tests/stock/test_policies.py",
    ),
    bug(
        "replaced_policy_holds_where_it_held",
        "rules: policies",
        "A policy that moves to another scope goes on in the old one.",
        (POLICIES, "        replaced = self.remove_policy(policy.policy)\n", "        replaced = None\n"),
        caught_by="tests/stock/test_policies.py",
    ),
    bug(
        "ids_age_by_the_busiest_topic",
        "rules: duplicates",
        "Ids of a topic that was silent for a day are forgotten because another was not.",
        (
            RECENT,
            "return all(\n            newest == 0 or newest + HORIZON_US < now",
            "return any(\n            newest != 0 and newest + HORIZON_US < now",
        ),
        caught_by="tests/stock/test_recent.py",
    ),
    bug(
        "merged_chunks_count_twice",
        "rules: journal",
        "Chunks whose deletion was lost are taken back beside the chunk that replaced them.",
        (RECENT, "if any(first <= chunk.number <= last for first, last in replaced):", "if False:"),
        caught_by="tests/stock/test_recent.py",
    ),
    bug(
        "cut_forgets_its_own_facts",
        "rules: journal",
        "A large flush drops facts that a crash in its middle needs.",
        (RECENT, "and self._chunks[0].number < first_of_this_cut\n", ""),
        caught_by="tests/sinks/test_outlet_regressions.py",
    ),
    bug(
        "more_than_the_rest_is_given_back",
        "rules: transfers",
        "A cancellation gives back units that were received already.",
        (
            SUPPLY,
            "given.append(Given(f.time_us, shipment.origin, shipment.state, units))",
            "given.append(Given(f.time_us, shipment.origin, shipment.state, f.units))",
        ),
        caught_by="tests/stock/test_supply.py",
    ),
    bug(
        "final_receipt_leaves_the_rest_open",
        "rules: transfers",
        "What a final receipt left over stays in transit for ever.",
        (SUPPLY, "                if f.final:\n", "                if False:\n"),
        caught_by="tests/stock/test_supply.py",
    ),
    bug(
        "count_includes_nothing_given_back",
        "rules: transfers",
        "Units that came back before a count stay on top of it.",
        (NUMBERS, "        if one.time_us >= counted_us:\n", "        if True:\n"),
        caught_by="tests/stock/test_supply.py",
    ),
    bug(
        "what_was_given_back_is_forgotten",
        "rules: transfers",
        "A day after a cancellation its units vanish from the origin.",
        (SUPPLY, 'one.time_us >= self._counted_us(f"{sku}|{one.location}")', "False"),
        caught_by="tests/stock/test_supply.py",
    ),
    bug(
        "transfers_take_in_replayed_facts_again",
        "section 7: applied offsets of transfers",
        "A transfer or inbound takes in a replayed fact once more.",
        (SUPPLY, "if offset <= transfer.applied[topic]:", "if False:"),
        (SUPPLY, "if offset <= inbound.applied[topic]:", "if False:"),
        (
            SUPPLY,
            "        if not insert(self.facts, new):\n            return False\n        if len(self.facts) > FACTS_MAX:\n"
            "            self.base = self._folded(self.facts[: FACTS_MAX // 2])\n"
            "            del self.facts[: FACTS_MAX // 2]\n        self.shipments",
            "        self.facts.append(new)\n        self.facts.sort(key=lambda f: (f.time_us, f.rank, f.source, f.id))\n"
            "        self.shipments",
        ),
    ),
    bug(
        "destination_without_a_balance_is_not_told",
        "rules: transfers",
        "Goods on their way to where nothing is known are told nowhere.",
        (
            LEDGER,
            "            for key in awaited:\n                self._await(key)\n            changed",
            "            changed",
        ),
        caught_by="tests/stock/test_supply.py",
    ),
    bug(
        "passed_eta_stays_the_next",
        "rules: inbound",
        "A record promises a delivery for a time that is over.",
        (SUPPLY, "eta_us is not None and eta_us > clock_us", "eta_us is not None"),
        caught_by="tests/stock/test_supply.py",
    ),
)

"""Bugs in what a restart believes: claims, generations, tails, journal, applied offsets, outcomes."""

from __future__ import annotations

from tests.mutants.mutant import bug

RESTORE = "sources/restore.py"
SOURCE = "sources/kafka.py"
LEDGER = "stock/ledger.py"
PROMISES = "stock/promises.py"
REQUESTS = "stock/requests.py"
COMMITMENTS = "stock/commitments.py"
ORDERS = "stock/orders.py"
OUTLET = "sinks/outlet.py"
STEP = "dataflows/keep_balances.py"
STATE_RECORDS = "schemas/state.py"

STATE = (
    bug(
        "generation_does_not_rise",
        "section 7: claim",
        "Every owner claims the same generation.",
        (
            RESTORE,
            "max(progress.newest_claim, progress.newest_seen, progress.claimed) + 1",
            "max(progress.newest_claim, progress.newest_seen, 1)",
        ),
        (RESTORE, "if newest_before >= progress.claimed:", "if False:"),
    ),
    bug(
        "two_owners_of_one_generation",
        "section 7: claim again on a tie",
        "A process does not claim again when another has claimed the same generation before it.",
        (RESTORE, "if newest_before >= progress.claimed:", "if False:"),
        caught_by="tests/sources/test_restore_claims.py",
        unseen_because="the group tells the loser of its loss before it has written anything with the generation they share",
    ),
    bug(
        "claim_below_what_was_written",
        "section 7: claim above all that was written",
        "After a late claim of a fenced process, the next owner claims a generation that is used already.",
        (
            RESTORE,
            "max(progress.newest_claim, progress.newest_seen, progress.claimed) + 1",
            "max(progress.newest_claim, progress.claimed) + 1",
        ),
        caught_by="tests/sources/test_restore_claims.py",
        unseen_because="it takes a claim that is late by more than the compaction lag, and nobody who claims again on the tie",
    ),
    bug(
        "fenced_state_is_believed",
        "section 7: older generation ignored",
        "What a fenced process wrote after the claim replaces the owner's state at the next restart.",
        (RESTORE, "if generation < progress.newest_claim:", "if False:"),
    ),
    bug(
        "ignored_state_is_not_rewritten",
        "section 7: ignored records rewritten",
        "Compaction keeps the fenced record, which nobody believes, instead of the owner's.",
        (RESTORE, "restored.rewrite.add(name)  # a fenced", "pass  # a fenced"),
    ),
    bug(
        "state_carries_no_generation",
        "section 7: older generation ignored",
        "Every state record looks as if a fenced process had written it.",
        (OUTLET, "self._seal = seal(generation)", "self._seal = seal(0)"),
    ),
    bug(
        "version_without_generation",
        "section 7: version",
        "Versions begin anew with each owner.",
        (OUTLET, "version = self.generation << 32 | self._counter", "version = self._counter"),
    ),
    bug(
        "version_from_the_clock",
        "section 7: version",
        "Versions go back with the clock.",
        (OUTLET, "version = self.generation << 32 | self._counter", "version = now_us + self._counter"),
    ),
    bug(
        "tail_is_not_shown_again",
        "section 7: tails",
        "A record of the last owner that is newer than the restored state stands on the topic.",
        (OUTLET, "        self.show_again(self._shown)\n", ""),
    ),
    bug(
        "tail_keys_are_not_withheld",
        "section 7: tails withheld",
        "During the replay a key goes back to something older than the topic said before.",
        (OUTLET, "withheld = self._shown if self.catching_up else ()", "withheld = ()"),
    ),
    bug(
        "tail_starts_anew_while_it_is_owed",
        "section 7: tails",
        "A second crash during the replay forgets which keys have to be shown again.",
        (OUTLET, "tail_start = self._tail_start if self._shown else", "tail_start = self._tail_start if False else"),
    ),
    bug(
        "tail_begins_at_the_commit",
        "section 7: tails",
        "The next owner's tail begins behind records that the committed state does not know.",
        (
            OUTLET,
            "return cut.positions, cut.metadata",
            "return cut.positions, encode_metadata(\n"
            "            self.generation, self.availability_stream.next_offset, self.letters_stream.next_offset\n"
            "        )",
        ),
    ),
    bug(
        "letters_of_the_tail_are_sent_again",
        "section 7: dead letters in the tail",
        "A restart sends dead letters that stand in the log already.",
        (OUTLET, "if (topic, partition, offset) in self._known_letters:", "if False:"),
    ),
    bug(
        "tail_of_letters_moves_during_the_replay",
        "section 7: dead letters in the tail",
        "A second crash during the replay sends dead letters that stand in the log already.",
        (OUTLET, "self._letters_start if self.catching_up else", "self._letters_start if False else"),
    ),
    bug(
        "digest_is_durable_in_doubt",
        "section 7: digest 0 in doubt",
        "After a crash the state calls a record published that never came to the topic or was followed by another.",
        (OUTLET, "in_doubt = self._latest.keys() | self._waiting.keys()", "in_doubt = set()"),
    ),
    bug(
        "digests_are_not_compared_after_a_takeover",
        "section 7: digests compared after takeover",
        "What changed while nobody owned the partition, such as a rule, is never published.",
        (
            OUTLET,
            "        self._shown = set()\n        self.look_again(None, None, None)\n",
            "        self._shown = set()\n",
        ),
    ),
    bug(
        "replayed_keys_are_not_shown",
        "section 7: replayed keys published",
        "A record that was lost with its process is not sent again, since its fact is in the state.",
        (LEDGER, "            self._show_again(key, timestamp_us)\n", ""),
        unseen_because="the tail, digests of 0 and their comparison each have the key published as well",
    ),
    bug(
        "replay_applies_again",
        "section 7: applied offsets",
        "What became durable before a crash in the middle of a flush is applied once more.",
        (
            LEDGER,
            "if balance is not None and totals.positions[topic] <= offset <= balance.applied[topic]:",
            "if False:",
        ),
        (LEDGER, "if covered is not None:", "if False:"),
    ),
    bug(
        "applied_offset_is_off_by_one",
        "section 7: applied offsets",
        "The newest applied fact is applied once more after a restart.",
        (
            LEDGER,
            "balance.applied[topic] = offset\n        occurred_us",
            "balance.applied[topic] = offset - 1\n        occurred_us",
        ),
    ),
    bug(
        "orders_apply_replayed_facts_again",
        "section 7: applied offsets of orders",
        "A hold or order line takes in a replayed fact once more.",
        (COMMITMENTS, "if offset <= hold.applied[topic]:", "if False:"),
        (COMMITMENTS, "if offset <= line.applied[topic]:", "if False:"),
        (
            ORDERS,
            "            return False\n    insort(facts, new)  # type: ignore[call-overload]  # its Struct has an order\n",
            "            pass\n"
            "    facts.append(new)\n"
            "    facts.sort(key=lambda f: (f.time_us, f.rank, f.source, f.id))\n",
        ),
    ),
    bug(
        "replay_leaves_orders_incomplete",
        "section 7: applied offsets of orders",
        "A hold whose record was lost in a crash never hears of the fact that its balance has already.",
        (
            LEDGER,
            "        if outcome != DUPLICATE:\n            self._tell_others",
            "        if False:\n            self._tell_others",
        ),
    ),
    bug(
        "journal_restores_no_ids",
        "section 7: journal restores ids",
        "A repeat that arrives after a restart moves stock again.",
        (LEDGER, "            self.recent.ids.add(id_hash)\n        if offset", "            pass\n        if offset"),
    ),
    bug(
        "journal_restores_no_movements",
        "section 7: journal restores movements",
        "A late count after a restart forgets the sales since.",
        (LEDGER, "            self._remember(key, past, time_us, units)\n", "            pass\n"),
    ),
    bug(
        "journal_rows_beyond_the_state_count",
        "section 7: journal rows beyond applied dropped",
        "A fact whose balance did not become durable is taken for its own repeat, and lost.",
        (LEDGER, "if offset > past.applied[topic]:", "if False:"),
        (
            LEDGER,
            "        if packed is None:\n            return False\n        past",
            "        if packed is None:\n"
            "            self.recent.ids.add(row[4])\n"
            "            return False\n"
            "        past",
        ),
    ),
    bug(
        "outcomes_are_counted_again",
        "section 7: outcomes beyond their positions",
        "Replayed records count twice.",
        (
            LEDGER,
            "            if offset < self._durable[topic]:\n                self.totals.positions",
            "            if offset < self._durable[topic]:\n"
            "                self.totals.by_outcome[APPLIED] += 1\n"
            "                self.totals.positions",
        ),
    ),
    bug(
        "refused_records_are_counted_again",
        "section 7: outcomes beyond their positions",
        "Replayed dead letters count twice.",
        (LEDGER, "        if offset < self._durable[topic]:\n            return False\n", ""),
    ),
    bug(
        "counted_is_taken_for_committed",
        "section 7: outcomes beyond their positions",
        "A restart commits positions that it has not read again, so what was lost of them stays lost.",
        (LEDGER, "            self.totals.positions = [0] * TOPIC_COUNT\n", ""),
    ),
    bug(
        "counted_strangers_are_not_told_again",
        "section 7: counted dead letters after a restart",
        "A record in the wrong partition that was counted, but not sent before the crash, never becomes a dead letter.",
        (LEDGER, "            self._admit(event.sku, event.location)\n\n", "            pass\n\n"),
    ),
    bug(
        "limits_are_forgotten_in_a_restart",
        "section 7: counted dead letters after a restart",
        "A record refused for a limit is accepted by the replay, after others have counted on its refusal.",
        (LEDGER, "if (topic, offset) in self._over_limit:", "if False:"),
        caught_by="tests/stock/test_ledger_state.py",
        unseen_because="no simulated SKU has 100,000 holds, and the oracle knows no limit",
    ),
    bug(
        "holds_end_while_catching_up",
        "section 7: expiry waits while catching up",
        "A hold ends although its renewal is in the log already.",
        (
            STEP,
            "if self._ledger is None or not self._caught_up:\n            return (), False",
            "if self._ledger is None:\n            return (), False",
        ),
        (
            STEP,
            "if self._ledger is None or not self._caught_up:\n            return None",
            "if self._ledger is None:\n            return None",
        ),
        (
            STEP,
            "        if self._caught_up:\n            ledger.advance",
            "        if True:\n            ledger.advance",
        ),
    ),
    bug(
        "state_is_claimed_that_is_not_understood",
        "rules: state formats",
        "A program fences off the owner although it cannot read what the owner wrote.",
        (RESTORE, "        if progress.unreadable:\n            key, why", "        if False:\n            key, why"),
        caught_by="tests/sources/test_restore_claims.py",
    ),
    bug(
        "state_of_other_partitions_is_taken",
        "rules: state formats",
        "After the topics have grown, SKUs are looked for in partitions that have no state of them.",
        (RESTORE, "if before is not None and before != self._partitions:", "if False:"),
        caught_by="tests/sources/test_restore_claims.py",
    ),
    bug(
        "replay_ends_before_the_claim",
        "section 7: expiry waits while catching up",
        "What was told between the assignment and the claim, a renewal say, counts as new.",
        (SOURCE, "            self._bounds.ask(filled.restored.partition)\n", ""),
        (
            SOURCE,
            "                self._restorer.start(partition, assignment.epoch, assignment.metadata)\n",
            "                self._restorer.start(partition, assignment.epoch, assignment.metadata)\n"
            "                self._bounds.ask(partition)\n",
        ),
    ),
    bug(
        "ledgers_are_opened_half_full",
        "section 7: takeovers",
        "A ledger that is filled beside live partitions is taken for full after its first portion.",
        (
            "sources/filling.py",
            "if next(filling.portions, _END) is _END:",
            "if next(filling.portions, _END) is None or 1:",
        ),
    ),
    bug(
        "unknown_format_is_read",
        "rules: state formats",
        "A record of a newer program is taken for one of ours.",
        (STATE_RECORDS, "len(value) < 5 or value[0] != FORMAT", "len(value) < 5"),
        caught_by="tests/schemas/test_state.py",
    ),
    bug(
        "strange_metadata_is_believed",
        "rules: state formats",
        "Commit metadata of another format is taken for ours.",
        (STATE_RECORDS, "return metadata if metadata.format == 1 else None", "return metadata"),
        caught_by="tests/schemas/test_state.py",
    ),
    bug(
        "request_is_decided_again",
        "section 7: verdicts are promises",
        "A replayed request is decided by what is known now, whatever was answered.",
        (LEDGER, "        known = self.verdicts.get(key)\n        place", "        known = None\n        place"),
    ),
    bug(
        "request_is_answered_before_it_is_durable",
        "section 7: verdicts are promises",
        "A crash forgets what somebody was promised.",
        (OUTLET, "            stages,\n            answers,\n", "            stages,\n            [],\n"),
        (
            OUTLET,
            "        self._send_stage(self._cut)\n\n    def _send_stage",
            "        self._cut.answers = answers\n        if answers:\n            self._give(self._cut)\n"
            "        self._send_stage(self._cut)\n\n    def _send_stage",
        ),
    ),
    bug(
        "decision_lands_beside_its_hold",
        "section 7: verdicts are promises",
        "The hold is durable and its decision is not: the replay decides once more, against itself.",
        (OUTLET, " or is_verdict_key(key) or", " or"),
    ),
    bug(
        "replayed_request_is_not_answered",
        "section 7: verdicts are promises",
        "A crash between a decision and its answer leaves somebody without one.",
        (
            LEDGER,
            "                    self._promise(event, key, known, topic, timestamp_us)\n"
            "                self._answer(sku, key, known)\n",
            "                    self._promise(event, key, known, topic, timestamp_us)\n",
        ),
    ),
    bug(
        "positions_do_not_wait_for_answers",
        "section 7: verdicts are promises",
        "A request is committed whose answer was lost.",
        (OUTLET, "            or self.verdicts_under_way\n", ""),
    ),
    bug(
        "retry_is_promised_twice",
        "section 7: verdicts are promises",
        "Who asks again under another id gets the units a second time, once the first ones were picked up.",
        (REQUESTS, "return repeat_of(granted, units, event, offset, stamped_us) if units else None", "return None"),
        caught_by="tests/stock/test_verdicts.py",
    ),
    bug(
        "repeat_survives_what_it_repeats",
        "section 7: verdicts are promises",
        "A crash keeps the answer to a retry and loses the decision behind it: what was told is held nowhere.",
        (REQUESTS, "        if repeat == known or (repeat is None and not known.repeats):", "        if known:"),
        caught_by="tests/stock/test_verdicts.py",
    ),
    bug(
        "decision_is_forgotten_before_its_answer",
        "section 7: verdicts are promises",
        "A request that waited in the log for more than a day is not answered after a crash.",
        (PROMISES, "            if key in self._owed:\n", "            if False:\n"),
        caught_by="tests/stock/test_verdicts.py",
        unseen_because="no simulated request is a day old",
    ),
)

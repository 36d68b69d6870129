"""Bugs in when positions are committed, and in who may act as an owner: cuts, lease, assignment, handover."""

from __future__ import annotations

from tests.mutants.mutant import bug

OUTLET = "sinks/outlet.py"
PUBLISHER = "sinks/publisher.py"
COMMITS_FILE = "sources/commits.py"
SOURCE = "sources/kafka.py"
STEP = "dataflows/keep_balances.py"

COMMITS = (
    bug(
        "commit_before_the_state_is_acknowledged",
        "section 7: commit waits for state",
        "Positions are committed whose state may never reach the log.",
        (OUTLET, "cut is None or cut.stages or not self.state_stream.idle", "cut is None"),
    ),
    bug(
        "commit_before_availability_is_acknowledged",
        "section 7: commit waits for availability",
        "Positions are committed whose records may never reach the topic.",
        (OUTLET, "            or self.availability_stream.acked < cut.availability_sent\n", ""),
    ),
    bug(
        "commit_before_waiting_keys_are_published",
        "section 7: commit waits for lanes",
        "A crash forgets a key that waited in the routine lane at the cut.",
        (OUTLET, "            cut.waiting\n            or self.verdicts", "            self.verdicts"),
    ),
    bug(
        "commit_before_waited_keys_are_acknowledged",
        "section 7: commit waits for lanes",
        "A key that waited at the cut is sent, and the cut committed before its record is acknowledged.",
        (OUTLET, "cut.availability_sent = max(cut.availability_sent, self.availability_stream.sent)", "pass"),
    ),
    bug(
        "commit_before_letters_are_acknowledged",
        "section 7: commit waits for dead letters",
        "A crash loses dead letters of committed records.",
        (OUTLET, "            or self.letters_stream.acked < cut.letters_sent\n", ""),
    ),
    bug(
        "commit_of_one_batch_early",
        "section 7: cuts while a batch is under way",
        "Positions of a batch are committed whose dead letters and changes have not reached the sink.",
        (PUBLISHER, "        if cuts_allowed:\n", "        if True:\n"),
    ),
    bug(
        "cut_between_the_portions_of_a_run",
        "section 7: cuts while a batch is under way",
        "Positions are committed of facts whose changes are told with a later portion.",
        (OUTLET, " or self.has_gap or self.gathers:", " or self.has_gap:"),
        caught_by="tests/dataflows/test_portions.py",
    ),
    bug(
        "portions_of_a_lost_partition_are_passed_on",
        "section 7: epochs",
        "What was read for a lost assignment is taken for the next one's, whose positions it passes over.",
        (SOURCE, "Batch(run.epoch, run.messages, run.more)", "Batch(assignment.epoch, run.messages, run.more)"),
        (SOURCE, " or not assignment.live or assignment.epoch != run.epoch:", " or not assignment.live:"),
        caught_by="tests/sources/test_kafka_reader.py",
    ),
    bug(
        "caught_up_before_all_is_passed_on",
        "section 7: catching up",
        "A replay counts as through while records of it wait to be passed on.",
        (
            SOURCE,
            "                self._runs.add(Run(partition, assignment.epoch, its_messages))\n",
            "                self._runs.add(Run(partition, assignment.epoch, its_messages))\n"
            "                _pass_ends(assignment, its_messages)\n",
        ),
        caught_by="tests/sources/test_kafka_reader.py",
    ),
    bug(
        "every_portion_is_told",
        "rules: conflation",
        "Far behind, each portion of what was read at once is told on its own.",
        (OUTLET, "        if self.gathers:\n            return\n", ""),
        caught_by="tests/dataflows/test_portions.py",
    ),
    bug(
        "first_of_many_slows_down_the_others",
        "rules: restoring",
        "As soon as one partition of a start is live, the others are restored as slowly as beside events.",
        (SOURCE, "        if self._hurries is None:\n", "        if True:\n"),
        caught_by="tests/sources/test_kafka_reader.py",
    ),
    bug(
        "busy_turns_are_never_cut_in",
        "section 7: cuts under load",
        "Where acknowledgements and records take all of a turn, one partition at most is cut in it.",
        (PUBLISHER, "until = self._clock() + CUT_S", "until = now + CUT_S"),
        caught_by="tests/sinks/test_cut_turns.py",
    ),
    bug(
        "cut_in_one_stage",
        "section 7: cut stages",
        "A balance reaches the log although the journal that it rests on has failed.",
        (OUTLET, "stages[2].append((key, value))", "stages[0].append((key, value))"),
        (OUTLET, "stages[value is None or not _comes_first(key)].append", "stages[0].append"),
    ),
    bug(
        "commit_with_an_open_gap",
        "rules: gaps",
        "A cut is committed although somebody else's record stands between ours.",
        (OUTLET, "not self.state_stream.idle or self.has_gap:", "not self.state_stream.idle:"),
        caught_by="tests/sinks/test_outlet_regressions.py",
    ),
    bug(
        "lease_is_not_fatal",
        "section 7: lease",
        "A process goes on producing without knowing whether it still owns.",
        (SOURCE, "if self._commits.expired(now):", "if False:"),
    ),
    bug(
        "lease_counts_from_the_answer",
        "section 7: lease from sending",
        "A commit whose answer was late proves ownership for too long.",
        (
            COMMITS_FILE,
            "        if self._in_flight is not None:\n            if now",
            "        self._now = now\n        if self._in_flight is not None:\n            if now",
        ),
        (
            COMMITS_FILE,
            "self.lease_ends = self._sent_at + self.lease_s if self._owned",
            "self.lease_ends = self._now + self.lease_s if self._owned",
        ),
        caught_by="tests/sources/test_commits.py",
    ),
    bug(
        "failed_commit_prolongs_the_lease",
        "section 7: lease",
        "A commit that was refused counts as a proof of ownership.",
        (
            COMMITS_FILE,
            "            self._retry_at = self._sent_at",
            "            self.lease_ends = self._sent_at + self.lease_s\n            self._retry_at = self._sent_at",
        ),
        caught_by="tests/sources/test_commits.py",
    ),
    bug(
        "unchanged_positions_are_not_repeated",
        "section 7: commit each fifth of the lease",
        "An idle process loses its lease.",
        (
            COMMITS_FILE,
            "            if now - self._sent_at < self.lease_s / 5:\n                return\n",
            "            return\n",
        ),
        caught_by="tests/sources/test_commits.py",
    ),
    bug(
        "failed_commit_replaces_a_newer_one",
        "rules: commits",
        "Positions go back when a failed commit is tried again.",
        (COMMITS_FILE, "self._ready.setdefault(partition, committed)", "self._ready[partition] = committed"),
        caught_by="tests/sources/test_commits.py",
    ),
    bug(
        "answer_to_another_commit_counts",
        "rules: commits",
        "The answer to a last commit of a revoked partition is taken for that of the commit in flight.",
        (COMMITS_FILE, "if sent is None or _places(partitions) != _places(self.offsets(sent)):", "if sent is None:"),
        caught_by="tests/sources/test_commits.py",
    ),
    bug(
        "owned_for_one_topic",
        "section 7: owned for all keyed topics",
        "A partition is worked on while another process still holds one of its topics.",
        (
            SOURCE,
            "            if len(assignment.held) == len(self._options.topics):\n                self._commits.own",
            "            if True:\n                self._commits.own",
        ),
    ),
    bug(
        "batches_of_a_lost_assignment_count",
        "section 7: epochs",
        "What was read for a lost assignment is applied and published by the next one.",
        (STEP, "if arrival.epoch != self._epoch or self._ledger is None:", "if self._ledger is None:"),
        (PUBLISHER, "if outlet is None or outlet.epoch != epoch:", "if outlet is None:"),
        caught_by="tests/dataflows/test_epochs.py",
        unseen_because="a second line: a partition's items pass the steps in order, so its Closed always comes first",
    ),
    bug(
        "callbacks_of_a_lost_assignment_count",
        "section 7: epochs",
        "Acknowledgements that come after the loss send the rest of a cut into the next owner's log.",
        (
            OUTLET,
            "    def _state_delivered(self, error: KafkaError | None, message: Message) -> None:\n"
            "        if error is not None or self.closed:\n",
            "    def _state_delivered(self, error: KafkaError | None, message: Message) -> None:\n"
            "        if error is not None:\n",
        ),
    ),
    bug(
        "revoke_keeps_the_state",
        "section 7: revoke forgets state",
        "A process goes on publishing for a partition that was taken from it.",
        (SOURCE, "            self._outgoing.lose(partition)\n            was_live", "            was_live"),
        (
            SOURCE,
            "                self._pending.append((str(partition), Closed(assignment.epoch)))\n",
            "                pass\n",
        ),
    ),
    bug(
        "revoke_without_flush",
        "section 7: revoke flushes",
        "What was consumed is not committed when partitions move in order, and is replayed by the next owner.",
        (SOURCE, "if live and self._failure is None and self._arrived() == self._emitted:", "if False:"),
    ),
    bug(
        "last_commit_is_not_sent",
        "section 7: shutdown",
        "An orderly end flushes and then leaves without committing.",
        (
            SOURCE,
            "        ready = self._commits.take_ready(live)\n        if ready:\n            try:",
            "        ready = self._commits.take_ready([])\n        if ready:\n            try:",
        ),
    ),
    bug(
        "lost_input_is_accepted",
        "section 7: start checks",
        "Committed positions that the log no longer has are passed over in silence.",
        (SOURCE, "                if not self._options.accept_lost_input:\n", "                if False:\n"),
    ),
)

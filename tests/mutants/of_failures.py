"""Bugs in what is made of failures: foreign writes, failed deliveries, refused records and settings."""

from __future__ import annotations

from tests.mutants.mutant import bug

OUTLET = "sinks/outlet.py"
PUBLISHER = "sinks/publisher.py"
SETTINGS = "sources/settings_topic.py"
SOURCE = "sources/kafka.py"
STEP = "dataflows/keep_balances.py"
EVENTS = "schemas/events.py"

FAILURES = (
    bug(
        "gap_is_ignored",
        "section 7: gap in acknowledged offsets",
        "A fenced writer's late record stays the newest of its key.",
        (
            "sinks/streams.py",
            "        if offset is None or offset != self.next_offset:\n            self.suspect()\n",
            "",
        ),
    ),
    bug(
        "ends_are_not_compared",
        "section 7: end-offset check",
        "A fenced writer's late record in an idle partition stays the newest of its key.",
        (PUBLISHER, "unchanged and future.result().offset > stream.next_offset", "False"),
    ),
    bug(
        "newer_claim_is_ignored",
        "section 7: newer claim ends the process",
        "A process that was succeeded writes on, against its successor.",
        (PUBLISHER, "if claim.generation > outlet.generation:", "if False:"),
    ),
    bug(
        "repair_publishes_nothing",
        "section 7: newer truth follows a foreign write",
        "A fenced writer's late record is found and left alone.",
        (PUBLISHER, "                    outlet.show_again(keys)\n", "                    pass\n"),
    ),
    bug(
        "repair_rewrites_no_state",
        "section 7: state follows a foreign write",
        "Compaction keeps a fenced writer's state instead of the owner's.",
        (PUBLISHER, "                        outlet.ledger.rewrite(key)\n", "                        pass\n"),
    ),
    bug(
        "delivery_error_is_ignored",
        "section 7: failed delivery ends the process",
        "A record that failed is taken for one that never was.",
        (
            PUBLISHER,
            "        if self._failure is None:\n            self._failure =",
            "        if False:\n            self._failure =",
        ),
    ),
    bug(
        "delivery_error_counts_as_success",
        "section 7: failed delivery ends the process",
        "A record that failed is committed as published.",
        (
            OUTLET,
            "    def _undelivered(self, error: KafkaError | None, message: Message) -> None:\n",
            "    def _undelivered(self, error: KafkaError | None, message: Message) -> None:\n"
            "        if message.topic() is not None:\n"
            "            return\n",
        ),
    ),
    bug(
        "failure_is_followed_by_acknowledgements",
        "section 7: first failure silences",
        "Acknowledgements behind a failed record complete the cut that the record belonged to.",
        (OUTLET, "            self.closed = True\n            self._wire.failed", "            self._wire.failed"),
    ),
    bug(
        "availability_without_offset_is_published",
        "section 7: unknown offset",
        "A record that the broker took for a repeat, and does not have, counts as published.",
        (
            OUTLET,
            "            self.show_again([key])\n            return\n",
            "            self.ledger.acknowledge(key, *shown)\n            return\n",
        ),
    ),
    bug(
        "state_without_offset_is_durable",
        "section 7: unknown offset",
        "State that the broker took for a repeat, and does not have, counts as durable.",
        (
            OUTLET,
            "            self._undelivered(nowhere(), message)\n            return\n        if offset == stream",
            "            stream.acked += 1\n        elif offset == stream",
        ),
    ),
    bug(
        "letter_without_offset_is_sent",
        "section 7: unknown offset",
        "A dead letter that the broker took for a repeat, and does not have, counts as sent.",
        (
            OUTLET,
            "        if not self._landed(error, message):\n            return\n        self.letters_stream",
            "        if error is None and message.offset() is None:\n            self.letters_stream.acked += 1\n"
            "            return\n"
            "        if not self._landed(error, message):\n            return\n        self.letters_stream",
        ),
    ),
    bug(
        "claim_without_offset_is_waited_for",
        "section 7: unknown offset",
        "A takeover waits for ever for a claim that the broker took for a repeat, and does not have.",
        (
            PUBLISHER,
            "if error is not None or message.offset() is None:\n            self.failed(error",
            "if error is not None:\n            self.failed(error",
        ),
    ),
    bug(
        "stranger_gets_a_balance",
        "section 7: wrong partition",
        "A record in another partition than its SKU's makes a second balance of that SKU.",
        (STEP, "if home != partition:", "if False:"),
    ),
    bug(
        "settings_are_not_read_to_their_end",
        "section 7: settings read first",
        "The first facts are judged by rules that no longer hold.",
        (SETTINGS, "        while self._behind:\n", "        while False:\n"),
    ),
    bug(
        "refused_setting_is_not_said",
        "section 7: refused settings",
        "A policy that was refused is nowhere to be seen.",
        (SETTINGS, "            self._newly_refused.append(self.refused[-1])\n", ""),
        (SOURCE, "        self._owe_settings(partition, assignment, self._settings.refused)\n", ""),
    ),
    bug(
        "refused_setting_is_not_said_again",
        "section 7: refused settings",
        "A policy refused shortly before a crash is nowhere to be seen.",
        (SOURCE, "        self._owe_settings(partition, assignment, self._settings.refused)\n", ""),
    ),
    bug(
        "refused_setting_leaves_the_old_one",
        "rules: policies",
        "Processes differ in their rules by when they started.",
        (
            SETTINGS,
            '            return self._remove((key or b"").decode(errors="replace"))\n        cause',
            "            return []\n        cause",
        ),
    ),
    bug(
        "changed_rule_is_not_looked_at",
        "rules: policies",
        "A policy that changes holds only for keys with later facts.",
        (
            SOURCE,
            "            self._outgoing.rules_changed(change.sku, change.location, change.cause)\n",
            "            pass\n",
        ),
    ),
    bug(
        "the_future_is_accepted",
        "rules: bad input",
        "A fact from next year makes all later counts late.",
        (EVENTS, "micros(event.occurred_at) > timestamp_us + FUTURE_TOLERANCE_US", "False"),
        caught_by="tests/schemas/test_events.py",
    ),
)

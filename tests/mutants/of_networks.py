"""Bugs in network records and alerts: what they add up, when they are sent, and what a restart makes of them."""

from __future__ import annotations

from tests.mutants.mutant import bug

OUTLET, LANE = "sinks/outlet.py", "sinks/network_lane.py"
PUBLISHER, LEDGER = "sinks/publisher.py", "stock/ledger.py"
NETWORK, ALERTS = "stock/network.py", "stock/alerts.py"

NETWORKS = (
    bug(
        "network_of_a_mode_that_is_off",
        "network: modes that are off",
        "A location that does not ship is counted as one that has sold out.",
        (NETWORK, "return 0 if mode.reason in _OFF else _MODE_COUNTS", "return _MODE_COUNTS"),
        caught_by="tests/stock/test_network.py",
    ),
    bug(
        "network_sums_do_not_hear_changes",
        "network: kept sums",
        "A network that is in use goes on saying what its locations said when it was summed.",
        (NETWORK, "        sums.catch_up()\n", ""),
        caught_by="tests/stock/test_network.py",
    ),
    bug(
        "network_forgets_a_new_location",
        "network: kept sums",
        "A location that comes later has no part in a network that is in use.",
        (NETWORK, "            self._forget(sku, sums)\n", "            pass\n"),
        caught_by="tests/sinks/test_outlet_against_oracle.py",
    ),
    bug(
        "promises_count_what_is_late",
        "network: available to promise",
        "What should have arrived long ago is promised for a date that has passed.",
        (LEDGER, "if eta_us is not None and eta_us > clock_us]", "if eta_us is not None]"),
        caught_by="tests/stock/test_network.py",
    ),
    bug(
        "commit_before_networks_are_acknowledged",
        "section 7: commit waits for networks",
        "Positions are committed whose network records may never reach the topic.",
        (OUTLET, "            or not self.network.reached\n", ""),
        caught_by="tests/sinks/test_outlet_cuts.py",
    ),
    bug(
        "commit_before_networks_of_waiting_keys",
        "section 7: commit waits for networks",
        "A key waits at the cut, and its network is told only after the commit.",
        (LANE, "set(self._waiting), set(waiting))", "set(self._waiting), set())"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "networks_of_the_tail_are_not_withheld",
        "section 7: tails withheld",
        "During the replay a network goes back to something older than the topic said before.",
        (LANE, "self._shown if self.catching_up else ()", "()"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "network_tail_starts_anew_while_it_is_owed",
        "section 7: tails",
        "A second crash during the replay forgets which networks have to be told again.",
        (LANE, "return self._tail_start if self._shown else self.stream.next_offset", "return self.stream.next_offset"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "network_digest_is_durable_in_doubt",
        "section 7: digest 0 in doubt",
        "After a crash the state calls a network record published that never came to the topic.",
        (LANE, "return self._latest.keys() | self._waiting.keys()", "return set()"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "networks_are_not_compared_after_a_takeover",
        "section 7: digests compared after takeover",
        "What changed for a network alone while nobody owned the partition is never published.",
        (OUTLET, "self.network.look_at(sku)  # rules", "pass  # rules"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "foreign_network_records_are_not_answered",
        "section 7: foreign writes answered",
        "A fenced writer's network record stays the newest word.",
        (PUBLISHER, "                    outlet.network.show_again(keys)\n", "                    pass\n"),
    ),
    bug(
        "alert_is_sent_before_it_is_durable",
        "section 7: alerts durable first",
        "A crash opens another alert for what readers were told of already.",
        (
            OUTLET,
            "        self.network.mark(self._waiting)\n",
            "        self.network.mark(self._waiting)\n        self._send_alerts(self.ledger.alerts.owed())\n",
        ),
        caught_by="tests/sinks/test_outlet_alerts.py",
    ),
    bug(
        "owed_alerts_are_forgotten",
        "section 7: owed alerts",
        "An alert that was on its way as its process died never reaches its readers, or never closes.",
        (LEDGER, "                self.alerts.restore(key, packed)\n", "                pass\n"),
        caught_by="tests/sinks/test_outlet_alerts.py",
    ),
    bug(
        "alert_opens_again_while_its_end_is_owed",
        "alerts: one at a time",
        "A condition that comes up again before its end was told has no alert of its own afterwards.",
        (OUTLET, '            if owed.state == "closed":\n', "            if False:\n"),
        caught_by="tests/sinks/test_outlet_alerts.py",
    ),
    bug(
        "alert_closes_again_and_again",
        "alerts: closes once",
        "Each look at a key that is fine again tells the end once more.",
        (ALERTS, "if alert is None or alert.closed_us is not None:", "if alert is None:"),
        caught_by="tests/stock/test_alerts.py",
    ),
)

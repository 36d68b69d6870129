"""Bugs in network records and alerts: what they add up, when they are sent, and what a restart makes of them."""

from __future__ import annotations

from tests.mutants.mutant import bug

OUTLET, LANE = "sinks/outlet.py", "sinks/network_lane.py"
PUBLISHER, LEDGER = "sinks/publisher.py", "stock/ledger.py"
NETWORK, SUMS, ALERTS = "stock/network.py", "stock/sums.py", "stock/alerts.py"
COMMITMENTS, ORDERS, POLICIES = "stock/commitments.py", "stock/orders.py", "stock/policies.py"

NETWORKS = (
    bug(
        "network_of_a_mode_that_is_off",
        "network: modes that are off",
        "A location that does not ship is counted as one that has sold out.",
        (SUMS, "    if mode.reason in _OFF:\n        return 0\n", ""),
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
        (OUTLET, "looked += self.network.look_at(sku, cause) - 1  # rules", "pass  # rules"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "foreign_network_records_are_not_answered",
        "section 7: foreign writes answered",
        "A fenced writer's network record stays the newest word.",
        (PUBLISHER, "                    outlet.network.show_again(keys)\n", "                    pass\n"),
    ),
    bug(
        "networks_with_a_safety_stock_add_up_what_each_may_sell",
        "network: both formulas",
        "Each location keeps its own safety stock, and the network another one on top.",
        (SUMS, "units = base = total[_RAW_SHIP + mode] - terms", "units = base = total[mode] - terms"),
        caught_by="tests/stock/test_channels.py",
    ),
    bug(
        "a_channel_leaves_its_own_quota_alone",
        "network: quotas",
        "What is ring-fenced for a channel is hidden from that very channel.",
        (NETWORK, "            if other != channel:\n", "            if True:\n"),
        caught_by="tests/stock/test_channels.py",
    ),
    bug(
        "quotas_do_not_shrink",
        "network: quotas",
        "What a channel has taken of its quota is kept for it once more.",
        (NETWORK, "bound = self._bound_for(sku, other) - (", "bound = 0 - ("),
        caught_by="tests/stock/test_channels.py",
    ),
    bug(
        "channels_are_lost_with_the_process",
        "network: quotas after a restart",
        "After a restart no hold counts for its channel.",
        (COMMITMENTS, "        self._bind_for(sku, order.channel, order.open_units(self.clock_us))\n", ""),
        caught_by="tests/stock/test_channels.py",
    ),
    bug(
        "holds_that_end_count_for_their_channel",
        "network: quotas and time",
        "A hold that has ended goes on using up the quota of its channel.",
        (COMMITMENTS, '                    self._bind_for(key.partition("|")[0], order.channel, -order.left)\n', ""),
        caught_by="tests/stock/test_channels.py",
    ),
    bug(
        "the_last_told_channel_holds",
        "network: channels do not depend on the order of arrival",
        "A late older statement gives a hold its channel.",
        (ORDERS, " and new is _newest_statement(self.facts):", ":"),
        caught_by="tests/stock/test_channels.py",
    ),
    bug(
        "requests_take_what_is_ring_fenced",
        "verdicts: quotas",
        "Anybody is granted what is kept for a channel.",
        (
            "stock/requests.py",
            "        offers = fenced(self._offers(event, now_us, keys), event.mode, terms, reserved)\n",
            "        offers = self._offers(event, now_us, keys)\n",
        ),
        caught_by="tests/stock/test_channels.py",
    ),
    bug(
        "a_channel_that_is_gone_stays_published",
        "network: channels end",
        "The last record of a channel that no policy names stands for ever.",
        (NETWORK, "named, told = self._named(sku), self._told.get(sku)", "named, told = self._named(sku), None"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "a_channel_is_forgotten_with_its_older_null",
        "network: channels end",
        "A channel comes back and goes again, and its last record stays.",
        (LANE, "if value is not None or key in self._latest or not", "if value is not None or not"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "locations_do_not_tell_channels",
        "network: rules of channels at a location",
        "A location moves to another region, and only a channel minds; nobody looks at it.",
        (OUTLET, "elif sku not in sweep.networks and self.network.has_channels(sku):", "elif False:"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "channels_of_a_far_location_are_not_looked_at",
        "network: rules of channels at a location",
        "A channel that a policy names at one location has no record of a SKU that lies elsewhere.",
        (POLICIES, "scope.location if scope.channel is None else None, cause)", "scope.location, cause)"),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "kept_sums_of_channels_survive_their_rules",
        "network: kept sums",
        "A network that is in use goes on saying what its channels saw under the old rules.",
        (LANE, "        self._network.forget_channels(sku)\n", ""),
        caught_by="tests/sinks/test_network_lane.py",
    ),
    bug(
        "kept_sums_of_channels_do_not_hear_changes",
        "network: kept sums",
        "A channel sees what its locations said when it was first asked for.",
        (SUMS, "                    of_channel.behind.update(self.heard)\n", "                    pass\n"),
        caught_by="tests/stock/test_channels.py",
    ),
    bug(
        "two_nulls_are_taken_for_one",
        "network: acknowledgements",
        "An older null's acknowledgement is taken for that of the newest record, which is still on its way.",
        (LANE, "return (*DELISTED,) if seen", "return DELISTED if seen"),
        caught_by="tests/sinks/test_network_lane.py",
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

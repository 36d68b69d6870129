"""Bugs in the Redis view: what is written, over what, and what the markers claim."""

from __future__ import annotations

from tests.mutants.mutant import bug

VIEW_FILE = "sinks/redis_view.py"
STORE = "sinks/view_store.py"
OUTLET = "sinks/outlet.py"
LUA = "the simulator has its own copy of the scripts' meaning; their text runs on a real server only"

VIEW = (
    bug(
        "redis_is_fed_before_the_acknowledgement",
        "section 7: Redis follows the topic",
        "Redis shows a record that the topic may never have.",
        (
            OUTLET,
            "            stream.sent += 1\n            self._stats.records_by_lane",
            "            stream.sent += 1\n"
            "            self._on_published(self.partition, key, value, stream.next_offset, 0)\n"
            "            self._stats.records_by_lane",
        ),
    ),
    bug(
        "older_version_replaces_newer",
        "section 7: Redis version guard",
        "A late write takes Redis back.",
        (STORE, "'^{\"version\":(%d+)') or -1) < known then", "'^{\"version\":(%d+)') or -1) < -1 then"),
        caught_by="tests/sinks/test_redis_view.py",
        unseen_because=LUA,
    ),
    bug(
        "versions_are_compared_the_wrong_way",
        "section 7: Redis version guard",
        "Newer values are refused.",
        (STORE, "'^{\"version\":(%d+)') or -1) < known then", "'^{\"version\":(%d+)') or -1) > known then"),
        caught_by="tests/sinks/test_redis_view.py",
        unseen_because=LUA,
    ),
    bug(
        "delete_takes_newer_values",
        "section 7: Redis version guard",
        "A late delete takes a value that a newer owner wrote.",
        (STORE, "if stored and known <= tonumber(delete) then", "if stored then"),
        caught_by="tests/sinks/test_redis_view.py",
        unseen_because=LUA,
    ),
    bug(
        "marker_moves_from_anything",
        "section 7: marker compare",
        "A wipe between two moves of the marker is never noticed.",
        (STORE, "if stored ~= ARGV[1] then return 0 end", "if false then return 0 end"),
        caught_by="tests/sinks/test_redis_view.py",
        unseen_because=LUA,
    ),
    bug(
        "lost_marker_is_ignored",
        "section 7: marker compare",
        "A marker that is not as it was left is taken for moved.",
        (STORE, "                others.add(partition)\n", "                pass\n"),
    ),
    bug(
        "marker_moves_before_the_write",
        "section 7: marker after the write",
        "The marker claims records that are not written yet.",
        (
            VIEW_FILE,
            "max(share.position or 0, share.written + 1, marked)",
            "max(share.position or 0, share.high + 1, marked)",
        ),
        caught_by="tests/sinks/test_redis_view.py",
        unseen_because="view and worker take turns there, so that nothing is delivered between writing and marking",
    ),
    bug(
        "takeover_does_not_read_again",
        "section 7: resync at takeover",
        "What the last owner published and did not write stays missing.",
        (VIEW_FILE, "ours = found is not None and found in (share.marker, share.asked)", "ours = found is not None"),
    ),
    bug(
        "stale_owner_writes_on",
        "section 7: resync at takeover",
        "An owner that was succeeded moves the marker of its successor.",
        (
            VIEW_FILE,
            "if found is not None and found.generation > share.generation:\n            self._stand",
            "if False:\n            self._stand",
        ),
        unseen_because="the scripts refuse older versions, and the newer owner reads again when its marker was moved",
    ),
    bug(
        "dropped_backlog_is_not_read_again",
        "section 7: Redis backlog",
        "What was let go while Redis was down stays missing.",
        (VIEW_FILE, "                share.lost = True\n", "                share.lost = False\n"),
        caught_by="tests/sinks/test_view_faults.py",
    ),
    bug(
        "unmarked_writes_are_not_repeated",
        "section 7: Redis reconnect",
        "What a failover lost after the last marker stays missing.",
        (VIEW_FILE, "        self._put_back(unmarked)\n", ""),
        caught_by="tests/sinks/test_view_faults.py",
    ),
    bug(
        "reading_undoes_newer_deliveries",
        "rules: Redis view",
        "A slow reading brings back a value that was deleted meanwhile.",
        (VIEW_FILE, "if live.get(k, -1) < at]", "if True]"),
        caught_by="tests/sinks/test_redis_view.py",
    ),
    bug(
        "incomplete_reading_is_believed",
        "rules: Redis view",
        "A reading that ended early counts as complete.",
        (VIEW_FILE, "if share.position <= share.must_reach:", "if False:"),
        caught_by="tests/sinks/test_redis_view.py",
    ),
    bug(
        "writes_before_the_marker_is_ours",
        "rules: Redis view",
        "A wipe between taking over and the first marker is never noticed.",
        (VIEW_FILE, "if any(share.state is _State.UNKNOWN for share in self._shares.values()):", "if False:"),
        caught_by="tests/sinks/test_redis_view.py",
    ),
)

"""The balance job on Quix Streams: three topics joined to one stream, state in RocksDB with a changelog topic.

Best settings found: state under the message's own key (the SKU), one entry per location, so that nothing is
repartitioned; a checkpoint every 200 ms, as often as stockflow commits; a short poll. Bytes in and out; the job decodes
and encodes.
"""

from __future__ import annotations

from typing import Any

import orjson
from job import COMMIT_S, arguments, record, take
from quixstreams import Application, State
from quixstreams.models.serializers import Serializer

POLL_S = 0.05  # Joined topics are read by waiting for 10,000 messages or so long; by default a second.


class Made(Serializer):
    """The bytes of a record that `keep` has made already."""

    def __call__(self, value: tuple[str, bytes], ctx: Any) -> bytes:
        """The second of the pair."""
        return value[1]


def keep(event: dict[str, Any], state: State) -> tuple[str, bytes]:
    """Key and value of the record after an event."""
    balance = state.get(event["location"]) or [0, 0, 0]
    take(balance, event)
    state.set(event["location"], balance)
    return f"{event['sku']}|{event['location']}", record(balance, event)


def main() -> None:
    """Run until killed."""
    options = arguments()
    app = Application(
        broker_address=options.bootstrap,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        commit_interval=COMMIT_S,
        consumer_poll_timeout=POLL_S,
        state_dir=options.folder / "state",
        producer_extra_config={"linger.ms": options.linger_ms, "acks": "all", "enable.idempotence": True},
        auto_create_topics=True,  # Its changelog.
        loglevel="WARNING",
    )
    first, *others = [app.dataframe(app.topic(name, value_deserializer="bytes")) for name in options.inputs]
    joined = first
    for other in others:
        joined = joined.concat(other)
    joined = joined.apply(orjson.loads).apply(keep, stateful=True)
    output = app.topic(options.output, key_serializer="str", value_serializer=Made())
    joined = joined.to_topic(output, key=lambda pair: pair[0])
    app.run()


if __name__ == "__main__":
    main()

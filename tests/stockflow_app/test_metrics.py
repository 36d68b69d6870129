"""What the metrics say of a pipeline whose numbers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from stockflow.metrics import Measured, PipelineCollector
from tests.sinks.fake_wire import Window
from tests.stock.facts import fact, hold, told


def test_alerts_are_counted_by_kind_and_state() -> None:
    """Those that readers were told of, those that are open, and how accurate counts were."""
    window = Window(told(fact("wms.count", 0, 2), hold(1, 5)))
    for now, change in ((2, None), (3, fact("wms.receipt", 3, 9)), (4, fact("wms.count", 4, 4))):
        if change is not None:
            window.desk.tell(change)
        window.serve(now)
        window.land("state", "availability", "network", "letters")
        window.outlet.cut(now)
        window.land("state", "availability", "network", "letters")
        window.land("state")
        assert window.outlet.cut_ready() is not None
        window.land("alerts")
    window.ledger.alerts.left_out = 7
    publisher = SimpleNamespace(outlets={0: window.outlet}, stats=window.stats)
    collector = PipelineCollector(cast(Measured, SimpleNamespace(publisher=publisher)))
    samples: dict[tuple[Any, ...], float] = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in collector._alerts()
        for sample in family.samples
    }
    assert samples == {
        ("stockflow_alerts_total", "open", "shortage"): 2,
        ("stockflow_alerts_total", "closed", "shortage"): 1,
        ("stockflow_alerts_total", "count_variance", "open"): 1,
        ("stockflow_alerts_open", "shortage"): 1,
        ("stockflow_alerts_open", "count_variance"): 1,
        ("stockflow_alerts_left_out_total",): 7,
        ("stockflow_counted_units_total", "expected"): 11,
        ("stockflow_counted_units_total", "off"): 7,
    }

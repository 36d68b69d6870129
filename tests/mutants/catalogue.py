"""All planted bugs."""

from __future__ import annotations

from tests.mutants.of_alerts import ALERT_BUGS
from tests.mutants.of_commits import COMMITS
from tests.mutants.of_echoes import ECHOES
from tests.mutants.of_failures import FAILURES
from tests.mutants.of_networks import NETWORKS
from tests.mutants.of_state import STATE
from tests.mutants.of_stock import STOCK
from tests.mutants.of_the_view import VIEW

MUTANTS = (*STOCK, *STATE, *COMMITS, *FAILURES, *VIEW, *NETWORKS, *ECHOES, *ALERT_BUGS)

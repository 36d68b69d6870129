"""The audit: what should be there, recomputed from the log, against what is there; never a repair."""

from operations.audit.log import AuditImpossible
from operations.audit.report import AuditReport, render
from operations.audit.run import audit

__all__ = ["AuditImpossible", "AuditReport", "audit", "render"]

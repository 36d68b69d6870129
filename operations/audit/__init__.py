"""The audit: an independent recomputation from the log, compared with the topic and the view; never a repair."""

from operations.audit.log import AuditImpossible
from operations.audit.report import AuditReport, render
from operations.audit.run import audit

__all__ = ["AuditImpossible", "AuditReport", "audit", "render"]

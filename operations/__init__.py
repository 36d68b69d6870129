"""Tools that people run beside the pipeline: topics and the audit; they never write balances."""

"""The pure core: events, balances, rules, numbers and status; it never does I/O and never reads a clock."""

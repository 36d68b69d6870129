"""Faults of servers, networks, disks and clocks while real processes run, and what their users see of each."""

"""Contracts at the boundary: topic names, codecs for events, records and state; never any I/O."""

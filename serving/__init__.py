"""The read API for checkout (arrives with its own issue; nothing is served yet)."""

"""Planted bugs: small patches of correctness-critical code, each of which the fast suites must catch."""

"""Tests of the measurements: that they measure the real thing and check its result, not how fast it is."""

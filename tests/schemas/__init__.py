"""Tests of the contracts at the boundary."""

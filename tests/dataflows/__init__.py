"""Tests of the steps between source and sink."""

"""Measurements of stockflow against itself and against the least that could do its work; never part of the product."""

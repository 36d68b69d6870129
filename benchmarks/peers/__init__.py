"""What a user would take instead of stockflow, each doing the simple balance job at its best sensible settings.

Each runs in an environment of its own (`environments.py`) and shares nothing with stockflow but the wire format.
"""

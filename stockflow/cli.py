"""Command line entry."""

def main() -> None:
    """Start."""

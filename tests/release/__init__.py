"""What must hold before a version is given out: `python -m tests.release`, and tests of its parts."""

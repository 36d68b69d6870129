"""The whole program under faults: processes killed at named points, rounds that record what came of it."""

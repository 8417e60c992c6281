"""Faults without mercy while a known load runs, and then a count: nothing lost, nothing doubled. `python -m chaos`, docs/chaos.md."""

"""Prometheus metrics of `orderflow dlq archive --follow`."""

from collections.abc import Callable

from prometheus_client import Counter, Gauge

letters = Counter("orderflow_archive_letters", "Letters that S3 confirmed.")
objects = Counter("orderflow_archive_objects", "Objects that S3 confirmed: written, repeated, or kept as they were (kept).", ["outcome"])
behind = Gauge("orderflow_archive_behind", "Letters on a dead-letter topic that are not in S3 yet.", ["topic"])
held = Gauge("orderflow_archive_held", "Letters that were read and that S3 has not confirmed yet.")
failing_seconds = Gauge("orderflow_archive_failing_seconds", "For how long S3 has taken no letters; 0 while it does.")


def watch(failing_s: Callable[[], float], held_letters: Callable[[], int]) -> None:
    """Have the gauges ask at each scrape."""
    failing_seconds.set_function(failing_s)
    held.set_function(lambda: float(held_letters()))

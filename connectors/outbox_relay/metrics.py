"""The relay's Prometheus metrics."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

depth = Gauge("orderflow_outbox_depth", "Outbox rows that wait (pending), wait though due (due), or were set aside (failed).", ["status"])
oldest_due = Gauge("orderflow_outbox_oldest_due_seconds", "How late the oldest pending row is; 0 when none is due.")
published = Counter("orderflow_relay_published", "Records that Kafka confirmed.", ["topic"])
failed = Counter("orderflow_relay_failed", "Rows that were set aside, by reason.", ["reason"])
unknown = Counter("orderflow_relay_unknown", "Records without a confirmation, to be published again.")
publish_seconds = Histogram("orderflow_relay_publish_seconds", "From a row's due time to Kafka's confirmation.", buckets=_SECONDS)

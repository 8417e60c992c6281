"""Prometheus metrics of the source."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

records = Counter(
    "orderflow_source_records", "Records by what an answer said of them (done, duplicate, refused, failed, …).", ["source", "outcome"]
)
requests = Counter("orderflow_source_requests", "Requests to the function, by status (none: no answer).", ["source", "status"])
request_records = Histogram("orderflow_source_request_records", "Records in one request.", ["source"], buckets=_EVENTS)
request_seconds = Histogram("orderflow_source_request_seconds", "From a request to its answer.", ["source"], buckets=_SECONDS)
letters = Counter("orderflow_source_letters", "Failed records whose letter is safe, by the reason.", ["source", "reason"])
letters_waiting = Gauge("orderflow_source_letters_waiting", "Failed records whose letter is not safe yet.", ["source"])
lag = Gauge("orderflow_source_lag", "Records between the committed offsets and the ends of the partitions.", ["source"])
paused = Gauge("orderflow_source_paused", "1 while the source delivers nothing, by who paused it.", ["source", "by"])
paused_seconds = Counter("orderflow_source_paused_seconds", "How long outages paused the source.", ["source"])
breaker_trips = Counter(
    "orderflow_source_breaker_trips",
    "How often the breaker paused the source, because nearly everything would become a letter.",
    ["source"],
)
partitions = Gauge("orderflow_source_partitions", "Partitions that are assigned to this process.", ["source"])
restarts = Counter(
    "orderflow_source_topics_created_again", "Partitions read from their beginning because their topic was created again.", ["source"]
)

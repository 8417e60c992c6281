"""Prometheus metrics of a function. The source and the relay have their own, beside their code."""

import functools

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, disable_created_metrics, generate_latest
from starlette.responses import Response

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series and nobody reads them

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

_deliveries = Counter("orderflow_deliveries", "Events by what became of them (done, duplicate, refused, busy, …).", ["function", "outcome"])
_request_events = Histogram("orderflow_request_events", "Events in one delivery request.", ["function"], buckets=_EVENTS)
_transaction_events = Histogram("orderflow_transaction_events", "Events that shared one transaction.", ["function"], buckets=_EVENTS)
_delivery_seconds = Histogram("orderflow_delivery_seconds", "From a request's arrival to its answer.", ["function"], buckets=_SECONDS)
_requests = Counter("orderflow_http_requests", "HTTP requests by answer.", ["function", "status"])
_connections_cut = Counter("orderflow_connections_cut", "Connections that were ended before their client wanted it, by why.", ["why"])
letters = Counter("orderflow_letters", "Dead letters that are safe, by consumer, error code and where.", ["consumer", "code", "store"])

# By their labels, of which there are few; to look one up in the metric itself takes longer than to count.
deliveries = functools.cache(_deliveries.labels)
request_events = functools.cache(_request_events.labels)
transaction_events = functools.cache(_transaction_events.labels)
delivery_seconds = functools.cache(_delivery_seconds.labels)
requests = functools.cache(_requests.labels)
connections_cut = functools.cache(_connections_cut.labels)


def exposition() -> Response:
    """All metrics of this process, in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

"""Who waits for whom, from the source's request to one statement: each limit is to be shorter than the one around it."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from connectors.kafka_source import manifest
from ops.doctor.checks import finds
from ops.doctor.facts import OpenFaas, Pods, Source
from ops.doctor.findings import Finding
from shared import config
from shared.config import Settings
from shared.topics import Catalogue

TIMEOUT_S = 600.0  # of a KafkaSource that states none
SPARE_S = 5.0  # after a drain, to close what is open and exit
Limit = tuple[str, float]


def origin(settings: Settings, field: str) -> str:
    """Where a setting's value is from."""
    return "environment" if field in settings.model_fields_set else "default"


@finds("timeouts_order", "lease_order")
def deliveries(settings: Settings, declared: Catalogue, sources: Sequence[Source]) -> Iterator[Finding]:
    """A source outlives what it waits for: the function's deadline, its lease, the letter's producer."""
    for source in sources:
        outer = _timeout(source)
        row = declared.by_source(source.name)
        yield from _ordered(outer, _of(settings, "delivery_deadline"))
        yield from _ordered(outer, _of(settings, "dlq_producer_timeout"))
        if row is not None and row[1].leased:
            yield from _ordered(outer, _of(settings, "notification_lease"), code="lease_order")


@finds("timeouts_order", "lease_order", "drain_order")
def pods(declared: Catalogue, sources: Sequence[Source], pods: Sequence[Pods]) -> Iterator[Finding]:
    """The same in a cluster, with each pod's own environment; and what is in flight ends before the platform kills."""
    timeouts = [_timeout(source) for source in sources]
    functions = {consumer.function.replace("_", "-"): consumer for _, consumer in declared.consumers()}
    for pod in pods:
        if pod.answer_s is not None:
            own = _own(pod.environment)
            knative = (f"timeoutSeconds of {pod.name}", pod.answer_s)
            chain = [knative, *((f"{name.upper()} of {pod.name}", own[name]) for name in ("delivery_deadline", "statement_timeout"))]
            delivered = pod.name in functions or pod.name == "dlq-router"
            for outer, inner in itertools.pairwise([*([min(timeouts, key=lambda of: of[1])] if timeouts and delivered else []), *chain]):
                yield from _ordered(outer, inner)
            if pod.name in functions and functions[pod.name].leased:
                yield from _ordered(knative, (f"NOTIFICATION_LEASE of {pod.name}", own["notification_lease"]), code="lease_order")
        if pod.grace_s is not None:
            own = _own(pod.environment)
            yield from _drained(pod.name, own["drain_delay"], own["shutdown_timeout"], pod.grace_s)


@finds("timeouts_order", "gateway_async", "gateway_holds")
def gateway(openfaas: OpenFaas, sources: Sequence[Source]) -> Iterator[Finding]:
    """The same behind OpenFaaS's gateway, and two settings of it that break what a source relies on."""
    own = [_timeout(source) for source in sources if not source.knative]
    chain = [*([min(own, key=lambda limit: limit[1])] if own else []), *openfaas.chain]
    for outer, inner in itertools.pairwise(chain):
        yield from _ordered(outer, inner)
    if openfaas.queue:
        yield Finding("gateway_async", "async is true (infra/openfaas/gateway.yaml)", "`async: false`, and deploy the chart again")
    if openfaas.from_zero:
        yield Finding("gateway_holds", "gateway.scaleFromZero is true (infra/openfaas/gateway.yaml)", "`scaleFromZero: false`")


def _ordered(outer: Limit, inner: Limit, *, code: str = "timeouts_order") -> Iterator[Finding]:
    if inner[1] >= outer[1]:
        yield Finding(
            code,
            f"{inner[0]} is {inner[1]:g} s; {outer[0]}, which waits for it, is {outer[1]:g} s",
            f"less than {outer[1]:g} s for {inner[0]}",
        )


def _drained(name: str, delay_s: float, shutdown_s: float, grace_s: float) -> Iterator[Finding]:
    if delay_s + shutdown_s + SPARE_S > grace_s:
        yield Finding(
            "drain_order",
            f"{name}: DRAIN_DELAY {delay_s:g} s + SHUTDOWN_TIMEOUT {shutdown_s:g} s; the platform kills after {grace_s:g} s",
            f"SHUTDOWN_TIMEOUT={max(1.0, grace_s - SPARE_S - delay_s):g}s, or a longer grace period",
        )


def _timeout(source: Source) -> Limit:
    stated = source.at("spec.delivery.timeout")
    try:
        value = TIMEOUT_S if stated is None else manifest.duration_s(stated)
    except ValueError:  # source_invalid says so
        value = TIMEOUT_S
    return f"spec.delivery.timeout of {source.name}", value


def _of(settings: Settings, field: str) -> Limit:
    return f"{field.upper()} ({origin(settings, field)})", float(getattr(settings, field))


def _own(environment: Mapping[str, str]) -> dict[str, float]:
    """The limits of a process with this environment: what it states, else the default."""
    found = {}
    for name in ("delivery_deadline", "statement_timeout", "notification_lease", "drain_delay", "shutdown_timeout"):
        try:
            found[name] = config.seconds(environment.get(name.upper()) or Settings.model_fields[name].default)
        except ValueError:
            found[name] = float(Settings.model_fields[name].default)
    return found

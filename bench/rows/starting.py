"""Our processes, started the way users start them."""

from collections.abc import Mapping

from bench.processes import Process, python
from bench.rows.consumer import Job
from bench.stand import Stand
from ops import child, home

MANIFEST = "infra/knative/sources.yaml"


def function(stand: Stand, name: str, database: str, called: str = "function", more: Mapping[str, str] | None = None) -> Process:
    """The function `name`, through the server that production runs; ready."""
    (port,) = child.free_ports(1)
    command = python("shared.server", "--source", f"functions/{name}/main.py", "--target", "handle", "--port", str(port))
    process = stand.process(called, command, stand.environment(name, database) | dict(more or {}), url=f"http://{child.LOOPBACK}:{port}")
    process.wait_ready()
    return process


def source(job: Job, sinks: Mapping[str, str], more: Mapping[str, str] | None = None, manifest: str = MANIFEST) -> Process:
    """The Kafka source with the documents of `manifest` whose names are `sinks`."""
    (port,) = child.free_ports(1)
    urls = ",".join(f"{name}={url}" for name, url in {"dlq-router": f"http://{child.LOOPBACK}:1", **sinks}.items())
    chosen = [part for name in sinks for part in ("--source", name)]
    command = python("connectors.kafka_source", "--manifest", manifest, "--control-port", str(port), *chosen)
    env = job.stand.environment("source") | {"SINK_URLS": urls} | dict(more or {})
    return job.stand.process("source", command, env, url=f"http://{child.LOOPBACK}:{port}")


def relay(stand: Stand, database: str, more: Mapping[str, str] | None = None) -> Process:
    """The outbox relay; ready."""
    (port,) = child.free_ports(1)
    command = python("connectors.outbox_relay", "--control-port", str(port))
    process = stand.process(
        "relay", command, stand.environment("outbox_relay", database) | dict(more or {}), url=f"http://{child.LOOPBACK}:{port}"
    )
    process.wait_ready()
    return process


def full_path(job: Job, processes: int = 1) -> list[Process]:
    """topic → our source → HTTP → function, in so many processes → PostgreSQL → committed offset."""
    names = ["function"] if processes == 1 else [f"function {n}" for n in range(1, processes + 1)]
    started = [function(job.stand, "order_on_assembled", job.database, name) for name in names]
    if processes > 1:
        started.append(balancer(job.stand, [one.url for one in started]))
    called = {"KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC": job.topic, "KAFKA_ORDER_CONSUMER_GROUP_ID": job.group}
    return [*started, source(job, {"order-on-assembled": started[-1].url}, called, _manifest(job.stand, processes))]


def _manifest(stand: Stand, processes: int) -> str:
    """Ours; for more than three processes a copy of it with a request in flight for each, or the others would have nothing to do."""
    if processes <= 3:
        return MANIFEST
    text = (home.CHECKOUT / MANIFEST).read_text(encoding="utf-8")
    copy = stand.folder / f"sources-{processes}.yaml"
    copy.write_text(text.replace('requests-in-flight: "3"', f'requests-in-flight: "{processes}"'), encoding="utf-8")
    return str(copy)


def balancer(stand: Stand, urls: list[str]) -> Process:
    """What a Service of Kubernetes does: connections to one address go to several processes."""
    (port,) = child.free_ports(1)
    process = stand.process("balancer", python("bench.balancer", str(port), *urls), {}, url=f"http://{child.LOOPBACK}:{port}")
    process.wait_ready()  # through to a function
    return process

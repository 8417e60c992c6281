"""Peers and the hand-written loop, started in the way that each is run."""

from bench.processes import Process, python
from bench.rows.consumer import Job
from bench.stand import Stand
from ops import child

ROLE = "orderflow_order"


def faststream(job: Job, mode: str) -> list[Process]:
    """FastStream, one message or one batch at a time."""
    return [job.stand.process("faststream", python("bench.peers.faststream_app", mode), _environment(job))]


def hand_loop(job: Job) -> list[Process]:
    """The hand-written loop."""
    return [job.stand.process("loop", python("bench.limits.hand_loop"), _environment(job))]


def one_transaction(stand: Stand, database: str) -> Process:
    """The function with one transaction per event, under functions-framework's own command line."""
    (port,) = child.free_ports(1)
    source = "bench/peers/one_transaction.py"
    options = ["--target", "handle", "--source", source, "--signature-type", "cloudevent", "--host", child.LOOPBACK, "--port", str(port)]
    env = {"DSN": stand.dsn(database, ROLE)}
    process = stand.process("function", python("functions_framework", *options), env, url=f"http://{child.LOOPBACK}:{port}")
    process.wait_ready(any_answer=True)
    return process


def _environment(job: Job) -> dict[str, str]:
    dsn = job.stand.dsn(job.database, ROLE)
    return {"KAFKA_BROKERS": job.stand.brokers, "TOPIC": job.topic, "GROUP": job.group, "DSN": dsn, "PYTHONUNBUFFERED": "1"}

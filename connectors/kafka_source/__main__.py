"""The process: `python -m connectors.kafka_source --manifest infra/knative/sources.yaml [--source NAME …] [--control-port 8085]`."""

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from connectors.kafka_source import control, manifest, plan
from connectors.kafka_source.service import Service
from shared import broker, config, errors, logs

log = logging.getLogger("connectors.kafka_source")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. 0: ended as asked; 1: a source failed; 2: a setting or a manifest is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m connectors.kafka_source", description="Deliver Kafka records as CloudEvents over HTTP."
    )
    parser.add_argument("--manifest", type=Path, required=True, help="KafkaSource documents (sources.knative.dev/v1)")
    parser.add_argument("--source", action="append", default=[], metavar="NAME", help="only this source; may be repeated")
    parser.add_argument("--control-host", default="127.0.0.1", metavar="HOST", help="where status, pause and metrics are served")
    parser.add_argument("--control-port", type=int, default=8085, metavar="PORT", help="0 takes a free one")
    parser.add_argument("--check", action="store_true", help="read manifest and settings, say what is wrong, and end")
    given = parser.parse_args(arguments)
    try:
        settings = config.settings()
        logs.set_up(settings.log_level, settings.log_format)
        sources = plan.sources(manifest.read(given.manifest, given.source), settings)
        broker.check(settings)
    except errors.ConfigError as exc:
        print(f"kafka_source: {exc}", file=sys.stderr)  # noqa: T201  before there is a log
        return 2
    if given.check:
        return 0
    try:
        listening = socket.create_server((given.control_host, given.control_port))
    except OSError as exc:
        where = f"{given.control_host}:{given.control_port}"
        log.error("the control port %s is taken: end who has it, or give --control-port another", where, extra={"reason": str(exc)})  # noqa: TRY400  a trace says no more
        return 1
    return uvloop.run(_run(sources, settings, listening))


def _tune_memory() -> None:
    """Let the garbage collector look less often.

    Thousands of records are in memory at once and none is part of a cycle; with Python's own thresholds, looking through them again
    and again took as long as the delivery itself.
    """
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


async def _run(sources: Sequence[plan.Source], settings: config.Settings, listening: socket.socket) -> int:
    _tune_memory()
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[BaseException | None] = loop.create_future()

    def end(reason: BaseException | None = None) -> None:
        if not ended.done():
            ended.set_result(reason)

    def failed(reason: BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended before
            loop.call_soon_threadsafe(end, reason)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    services = {source.name: Service(source, settings, failed) for source in sources}
    server = control.server(services)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    host, port = listening.getsockname()[:2]
    log.info("control HTTP at http://%s:%d", host, port)
    for service in services.values():
        service.start()
        source = service.source
        log.info("reading", extra={"source": source.name, "topics": ",".join(source.topics), "group": source.group, "sink": source.sink})
    reason = await ended
    if reason is None:
        log.info("ending: no new deliveries; what is in flight ends within %g s", settings.shutdown_timeout)
    else:
        log.error("a source failed", exc_info=reason)
    await asyncio.gather(*(service.stop() for service in services.values()))
    server.should_exit = True
    await serving
    return 0 if reason is None else 1


if __name__ == "__main__":
    sys.exit(main())

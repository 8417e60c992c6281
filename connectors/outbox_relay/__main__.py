"""`python -m connectors.outbox_relay`: publish until SIGTERM, then finish what is in flight and exit 0."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from connectors.outbox_relay import control, removal
from connectors.outbox_relay.relay import Relay
from shared import config, errors, logs

log = logging.getLogger("connectors.outbox_relay")


class _Server(uvicorn.Server):
    """Leaves signals to `_serve`: the control HTTP is there until the last row is settled."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: see `_serve`."""
        yield


async def _serve(relay: Relay, listening: socket.socket, shutdown_timeout_s: float) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    server = _Server(
        uvicorn.Config(
            control.Control(relay).application(), log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=1
        )
    )
    relay.start()
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    log.info("the relay runs", extra={"control": "http://{}:{}".format(*listening.getsockname()[:2])})
    await asyncio.wait([serving, asyncio.create_task(asked.wait())], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(relay.stop, shutdown_timeout_s)
    server.should_exit = True
    await serving
    log.info("the relay has ended")


def main() -> int:
    """The exit code: 0 after a drain, 2 when a setting or the port is wrong."""
    parser = argparse.ArgumentParser(prog="python -m connectors.outbox_relay", description="Publish the outbox to Kafka.")
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--control-port", type=int, default=int(os.environ.get("RELAY_CONTROL_PORT", "8086")))
    options = parser.parse_args()
    try:
        settings = config.settings()
        logs.set_up(settings.log_level, settings.log_format)
        relay = Relay(settings)
        removing = removal.of_outbox(settings)
        listening = socket.create_server((options.host, options.control_port))
    except (errors.ConfigError, OSError) as exc:
        sys.stderr.write(f"{exc}\n" if isinstance(exc, errors.ConfigError) else f"{options.host}:{options.control_port}: {exc}\n")
        return 2
    removing.start()
    asyncio.run(_serve(relay, listening, settings.shutdown_timeout))
    return 0


if __name__ == "__main__":
    sys.exit(main())

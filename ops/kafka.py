"""The local Apache Kafka: one broker in KRaft mode, from jars that Maven fetches once.

Facts of the settings, start times and messages: docs/operations.md. The jars, their hashes and the broker's settings lie in infra/kafka.
"""

import base64
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ops import child, home, kafka_jars
from shared import errors

STOP_SIGNAL = signal.SIGTERM
CLEAN_EXITS = frozenset({0, 130, 143})
_START_S = 60.0


@dataclass(frozen=True)
class Broker:
    """A broker and where its things lie. `more` holds properties beside those of infra/kafka/broker.properties."""

    state: Path  # jars and the class archive lie below it
    data: Path
    port: int
    controller_port: int
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"{child.LOOPBACK}:{self.port}"

    def prepare(self, say: Callable[[str], None] = lambda _line: None) -> None:
        """Fetch the jars, make the class archive and format the data folder, each only where missing. Blocks. Raises Unavailable."""
        self._demand_alone()
        kafka_jars.fetch(self.state, say)
        _archive(self.state, say)
        self._format(say)

    def command(self) -> list[str]:
        """How to start it, with the signal by which it ends in good order when its parent dies."""
        return child.guarded(self._java("kafka.Kafka", str(self._properties())), STOP_SIGNAL)

    def _java(self, *arguments: str, dump: Path | None = None) -> list[str]:
        found = _archive_file(self.state)
        archive = [f"-XX:ArchiveClassesAtExit={dump}"] if dump else [f"-XX:SharedArchiveFile={found}"] if found.exists() else []
        return [
            *(kafka_jars.java(), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *archive),
            f"-Dlog4j2.configurationFile={(kafka_jars.INFRA / 'log4j2.yaml').as_uri()}",
            *("-cp", kafka_jars.class_path(self.state), *arguments),
        ]

    def _properties(self, log_dirs: Path | None = None) -> Path:
        own = {
            "controller.quorum.bootstrap.servers": f"{child.LOOPBACK}:{self.controller_port}",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{child.LOOPBACK}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "log.dirs": str(log_dirs or self.data / "log"),
        } | dict(self.more)
        text = (kafka_jars.INFRA / "broker.properties").read_text(encoding="utf-8")
        file = self.data / ("format.properties" if log_dirs else "broker.properties")
        home.write(file, text + "".join(f"{name}={_escaped(value)}\n" for name, value in own.items()))
        return file

    def _demand_alone(self) -> None:
        lock = self.data / "log" / ".lock"  # a running broker holds it; the file itself stays behind
        if not lock.exists():
            return
        with lock.open("r+b") as looked_at:
            try:
                fcntl.lockf(looked_at, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise errors.Unavailable(
                    f"a broker runs with {self.data} already: `orderflow kafka down` ends one that `make kafka-up` started; "
                    "or use it, with KAFKA_BROKERS=host:port",
                    code="data_in_use",
                ) from exc

    def _format(self, say: Callable[[str], None]) -> None:
        version = self.data / "version"
        if (self.data / "log" / "meta.properties").exists():
            home.demand_owner(self.data, os.geteuid(), "Kafka's data")
            found = version.read_text(encoding="utf-8").strip() if version.exists() else "an unknown version"
            if found != kafka_jars.kafka_version():
                raise errors.Unavailable(
                    f"Kafka's data in {self.data} was written by {found}, and this is {kafka_jars.kafka_version()}: "
                    "forget the data with `make kafka-reset`, or choose another folder with ORDERFLOW_HOME",
                    code="stale_folder",
                )
            return
        say("formatting Kafka's data folder")
        self.data.mkdir(parents=True, exist_ok=True)
        home.demand_owner(self.data, os.geteuid(), "Kafka's data")
        # Formatted aside and then renamed, so that a format that was interrupted leaves nothing half done.
        aside = self.data / "log.new"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(self.data / "log", ignore_errors=True)
        # Its first character is ours: one time in 64 it would be a "-", and the tool would take the id for an option.
        cluster_id = "K" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        properties = str(self._properties(log_dirs=aside))
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "--standalone", "-t", cluster_id, "-c", properties),
            capture_output=True, text=True, check=False, env=environment(), timeout=_START_S,
        )  # fmt: skip
        if done.returncode:
            raise errors.Unavailable(f"Kafka's data folder cannot be formatted: {kafka_jars.tail(done)}", code="kafka_format")
        home.write(version, kafka_jars.kafka_version() + "\n")
        aside.rename(self.data / "log")


def environment() -> dict[str, str]:
    """What a broker gets of this process's environment. In another locale Java finds no folder with an accent in its name."""
    return child.environment(LC_ALL="C.UTF-8")


def _escaped(value: str) -> str:
    """`value` as a properties file has it, which Java reads as ISO 8859-1."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2)]
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)


class Probe:
    """Whether a broker answers, by a Kafka request: a frozen broker's port still accepts. The client is kept, for a new one is slow."""

    def __init__(self, address: str, security: Mapping[str, str] | None = None) -> None:
        from confluent_kafka.admin import AdminClient

        settings: dict[str, str | int | float | bool] = {
            "bootstrap.servers": address,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "log_level": 0,
        }
        self._client = AdminClient(settings | dict(security or {}))

    def __call__(self) -> None:
        """Ask once. Raises what Kafka's client raises when no broker answers within 2 s."""
        if not self._client.list_topics(timeout=2).brokers:
            raise errors.Unavailable("no broker answered")


def wait_ready(address: str, alive: Callable[[], bool], within_s: float = _START_S) -> None:
    """Wait until the broker answers. Raises Unavailable with the last error at the deadline, or when `alive` says no."""
    probe, deadline = Probe(address), time.monotonic() + within_s
    while True:
        try:
            return probe()
        except Exception as exc:
            if time.monotonic() > deadline or not alive():
                raise errors.Unavailable(f"Kafka at {address} did not get ready: {exc}", code="kafka_start") from exc
            time.sleep(0.05)


def _archive_file(state: Path) -> Path:
    key = hashlib.sha256(f"{kafka_jars.java_version(kafka_jars.java())}{kafka_jars.class_path(state)}".encode()).hexdigest()[:16]
    return (state / "kafka-jars").resolve().parent / f"kafka-classes-{key}.jsa"


def _archive(state: Path, say: Callable[[str], None]) -> None:
    # A broker run once for the archive alone: 5 s, and each later start takes half the time and a good deal less memory.
    archive = _archive_file(state)
    with home.locked(archive.parent / "kafka-jars.lock", wait=True), contextlib.ExitStack() as at_end:
        if archive.exists():
            return
        say("preparing Kafka's class archive (once)")
        aside = Path(at_end.enter_context(tempfile.TemporaryDirectory(dir=state, prefix=".kafka-classes-")))
        port, controller_port = child.free_ports(2)
        broker = Broker(state, aside / "data", port, controller_port)
        broker._format(lambda _line: None)
        dump = aside / "classes.jsa"
        process = at_end.enter_context(_running(broker._java("kafka.Kafka", str(broker._properties()), dump=dump)))
        try:
            wait_ready(broker.address, lambda: process.poll() is None)
        except errors.Unavailable:
            return  # the broker itself will say what is wrong
        process.terminate()
        process.wait(_START_S)
        if dump.exists():
            for old in archive.parent.glob("kafka-classes-*.jsa"):
                old.unlink()
            dump.rename(archive)


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        child.guarded(command), env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()

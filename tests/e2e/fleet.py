"""The whole system as single processes, of one version or another, so that each can be replaced while the others go on."""

import itertools
import json
import re
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from ops import child, home, roles
from ops.deployments import functions
from ops.tail import tail
from shared import config, topics
from tests import stack
from tests.conftest import MakeTopic
from tests.e2e.balancer import Backend, Balancer

SOURCE, RELAY = "source", "outbox_relay"
PARTITIONS = 2
ANSWERED = re.compile(r"^orderflow_(?:http_requests|relay_published)_total\{[^}]*\} (\S+)$", re.MULTILINE)


class Fleet:
    """One process of each kind, and while one is replaced two. Topics and groups have names of their own."""

    def __init__(self, folder: Path, brokers: str, database: stack.TestDatabase, make_topic: MakeTopic, **settings: str) -> None:
        self._folder, self._database = folder, database
        self._numbers = itertools.count(1)
        self._balancer = Balancer()
        self._live: dict[str, stack.Process] = {}
        self._backends: dict[str, Backend] = {}
        self.processes: dict[str, list[stack.Process]] = {}
        own = uuid.uuid4().hex[:8]
        declared = topics.read()
        self._settings = {topic.setting: f"{topic.name}.{own}" for topic in declared.all()}
        self._settings |= {consumer.setting: f"{consumer.group}.{own}" for _, consumer in declared.consumers()}
        for topic in declared.all():
            make_topic(PARTITIONS, {"max.message.bytes": topic.config["max.message.bytes"]}, self._settings[topic.setting])
        self.functions = functions.here()
        self.urls = {name: self._balancer.address(name) for name in self.functions}
        self._common = settings | self._settings | {"KAFKA_BROKERS": brokers, "LOG_FORMAT": "json", "DRAIN_DELAY": "100s"}
        self.settings = config.Settings(kafka_brokers=brokers, overrides=self._settings)

    def topic(self, name: str) -> str:
        """What the topic `name` is called here."""
        return next(self._settings[topic.setting] for topic in topics.read().all() if topic.name == name)

    def start(self, name: str, checkout: Path = home.CHECKOUT) -> stack.Process:
        """One process of `checkout`, which nobody is sent to yet."""
        (port,) = child.free_ports(1)
        role = next((role for role in roles.read() if role.process == name), None)
        env = self._common | ({f"{role.consumer.upper()}_POSTGRES_DSN": self._database.dsn(role.name)} if role else {})
        if name == SOURCE:
            env["SINK_URLS"] = ",".join(f"{of.service}={self.urls[name]}" for name, of in self.functions.items())
            command = ["-m", "connectors.kafka_source", "--manifest", "infra/knative/sources.yaml", "--control-port", str(port)]
        elif name == RELAY:
            command = ["-m", "connectors.outbox_relay", "--control-port", str(port)]
        else:
            command = ["-m", "shared.server", "--source", f"functions/{name}/main.py", "--port", str(port)]
        log, url = self._folder / f"{name}-{next(self._numbers)}.log", f"http://{child.LOOPBACK}:{port}"
        own = env | {"PYTHONPATH": str(checkout)}
        made = stack.Process(child.guarded([sys.executable, *command]), own, log, url=url, folder=checkout)
        self.processes.setdefault(name, []).append(made)
        return made

    def begin(self) -> None:
        """The first of each kind."""
        started = {name: self.start(name) for name in (*self.functions, RELAY)}
        for name, process in started.items():
            self._take(name, process)
        self._take(SOURCE, self.start(SOURCE))

    def replace(self, name: str, checkout: Path, started: stack.Process | None = None) -> None:
        """Another version beside the one that is there; when both have worked, the old one drains and ends, with exit code 0."""
        old, backend = self._live[name], self._backends.get(name)
        new = started or self.start(name, checkout)
        self._take(name, new)
        if name not in {SOURCE, "dlq_router"}:  # the router has nothing to do as long as nothing goes wrong
            before = _answered(old)
            stack.eventually(lambda: _answered(new) and _answered(old) > before, f"{name}: both versions at work")
        old.send(signal.SIGTERM)
        if backend is not None:
            stack.eventually(lambda: not backend.ready and not backend.connections, f"{name}: nobody to be sent to the old one")
            self._balancer.remove(name, backend)
            assert old.alive()
            old.send(signal.SIGTERM)  # the second one ends the delay, and what is in flight is finished
        assert old.wait() == 0, old.text[-2000:]
        if name == SOURCE:
            stack.eventually(lambda: all(len(of["partitions"]) == PARTITIONS for of in self.sources().values()), "all partitions")

    def sources(self) -> dict[str, Any]:
        """What the source that runs says of itself."""
        return _sources(self._live[SOURCE])

    def idle(self) -> bool:
        """Whether nothing waits, be it in the outbox or on a topic."""
        waiting = self._database.run("SELECT count(*) FROM order_outbox_events WHERE status <> 'sent'")
        return waiting == [[0]] and all((of["state"], of["lag"]) == ("running", 0) for of in self.sources().values())

    def records(self, *names: str) -> list[dict[str, Any]]:
        """Every record of these topics, as JSON."""
        with tail(self.settings, [self.topic(name) for name in names], beginning=True) as found:
            found.read(within_s=1)
            return [json.loads(message.value() or b"{}") for message in found.records]

    def log(self, name: str) -> Iterator[dict[str, Any]]:
        """What all processes of a kind have logged, a fact a line."""
        for process in self.processes[name]:
            yield from (json.loads(line) for line in process.text.splitlines() if line.startswith("{"))

    def announced(self) -> Counter[str]:
        """How often each event's message was sent."""
        return Counter(line["event_id"] for line in self.log("notify") if line["message"].startswith("notification: "))

    def close(self) -> None:
        """Kill all."""
        for process in itertools.chain(*self.processes.values()):
            process.kill()
        self._balancer.close()

    def _take(self, name: str, process: stack.Process) -> None:
        """Wait until it is ready and has its share of what there is to do."""
        process.wait_ready("/health" if name == SOURCE else "/ready")
        if name == SOURCE:
            stack.eventually(lambda: all(of["partitions"] for of in _sources(process).values()), "partitions for every source")
        elif name != RELAY:
            backend = self._backends[name] = self._balancer.add(name, process.url)
            stack.eventually(lambda: backend.ready, f"{name}: the balancer to see it")
        self._live[name] = process


def _sources(process: stack.Process) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{process.url}/sources", timeout=10).json()["sources"]
    return found


def _answered(process: stack.Process) -> float:
    """How many requests it has answered, or records it has published."""
    return sum(map(float, ANSWERED.findall(httpx.get(f"{process.url}/metrics", timeout=30).text)))

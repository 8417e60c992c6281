"""The delivery token changes while events flow: the receivers know the next one before the sender sends it."""

import json
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Producer

from ops import child
from tests import conftest, controls, stack
from tests.source.conftest import write_manifest

OLD, NEXT = secrets.token_hex(16), secrets.token_hex(32)
EVENTS = 40


class Chain:
    """A topic, the source that reads it and the function that it delivers to, each in its own process with a file of tokens of its own."""

    def __init__(
        self, folder: Path, brokers: str, topic: str, database: stack.TestDatabase, start: Callable[..., stack.Process], token: str
    ) -> None:
        self._brokers, self._topic, self._database = brokers, topic, database
        self._files = {"function": folder / "function-token", "source": folder / "source-token"}
        for file in self._files.values():
            file.write_text(f"{token}\n", encoding="utf-8")
        ports = child.free_ports(2)
        urls = [f"http://{child.LOOPBACK}:{port}" for port in ports]
        sink = {"ref": {"name": "function"}}
        manifest = write_manifest(folder / "sources.yaml", [{
            "apiVersion": "sources.knative.dev/v1", "kind": "KafkaSource", "metadata": {"name": topic},
            "spec": {
                "bootstrapServers": [brokers], "topics": [topic], "consumerGroup": topic, "sink": sink,
                "delivery": {"retry": 3, "backoffDelay": "PT0.05S", "timeout": "PT10S", "deadLetterSink": {"uri": "http://127.0.0.1:9/"}},
            },
        }])  # fmt: skip
        function = ["-m", "shared.server", "--source", "functions/order_on_assembled/main.py", "--port", str(ports[0])]
        source = ["-m", "connectors.kafka_source", "--manifest", str(manifest), "--control-port", str(ports[1])]
        self.processes = {
            "function": start(
                [sys.executable, *function], self._env("function", ORDER_POSTGRES_DSN=database.dsn("orderflow_order")), urls[0]
            ),
            "source": start(
                [sys.executable, *source], self._env("source", KAFKA_BROKERS=brokers, SINK_URLS=f"function={urls[0]}"), urls[1]
            ),
        }
        for process in self.processes.values():
            process.wait_ready()

    def _env(self, name: str, **more: str) -> dict[str, str]:
        return {"DELIVERY_TOKEN_FILE": str(self._files[name]), "SHUTDOWN_TIMEOUT": "5s"} | more

    def produce(self, count: int = EVENTS) -> None:
        producer = Producer(stack.CLIENT | {"bootstrap.servers": self._brokers})
        for _ in range(count):
            payload = controls.assembled()
            producer.produce(self._topic, json.dumps(payload).encode(), key=payload["order_id"])
        assert producer.flush(stack.PATIENCE_S) == 0

    def handled(self) -> int:
        return int(self._database.run("SELECT count(*) FROM order_inbox_events")[0][0])

    def refused(self, by: str) -> float:
        """How many requests were answered 401, by the source's count or by the function's."""
        counted = r'orderflow_(?:source|http)_requests_total\{[^}]*status="401"[^}]*\} (\S+)'
        return sum(map(float, re.findall(counted, httpx.get(f"{self.processes[by].url}/metrics", timeout=30).text)))

    def roll(self, name: str, *tokens: str) -> None:
        """Start `name` anew with these tokens while there are events to deliver."""
        self._files[name].write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
        self.produce()
        assert self.processes[name].stop() == 0
        self.produce()
        self.processes[name].start()
        self.processes[name].wait_ready()


@pytest.fixture
def chain(
    tmp_path: Path,
    kafka_brokers: str,
    make_topic: conftest.MakeTopic,
    database: stack.TestDatabase,
    start_process: conftest.StartProcess,
) -> Chain:
    return Chain(tmp_path, kafka_brokers, make_topic(2), database, start_process, OLD)


def test_a_token_takes_anothers_place_and_no_delivery_is_refused(chain: Chain) -> None:
    """Receivers learn the next one, the sender sends it, receivers forget the old one. Who is not restarted counts what was refused."""
    steps = (("function", (OLD, NEXT), "source"), ("source", (NEXT, OLD), "function"), ("function", (NEXT,), "source"))
    for number, (name, tokens, witness) in enumerate(steps, 1):
        chain.roll(name, *tokens)
        stack.eventually(lambda n=number: chain.handled() == 2 * EVENTS * n, "every event to be handled")
        assert chain.refused(witness) == 0

    old = httpx.post(chain.processes["function"].url, timeout=30, **with_token(OLD))
    assert (old.status_code, chain.refused("function")) == (401, 1)


def test_a_token_that_is_changed_at_once_holds_events_up_and_loses_none(chain: Chain) -> None:
    """Between the restart of the function and that of the source each delivery is answered 401, which is nobody's fault: it comes again."""
    chain.produce()
    stack.eventually(lambda: chain.handled() == EVENTS, "the first events")

    chain.roll("function", NEXT)

    stack.eventually(lambda: chain.refused("function") > 0, "a delivery to be refused")
    assert chain.handled() < 3 * EVENTS
    chain.roll("source", NEXT)
    stack.eventually(lambda: chain.handled() == 5 * EVENTS, "every event to be handled")


def with_token(token: str) -> dict[str, object]:
    request = controls.binary(controls.assembled())
    return request | {"headers": request["headers"] | {"authorization": f"Bearer {token}"}}

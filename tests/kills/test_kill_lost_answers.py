"""The connection is cut exactly when a commit, a published record or an offset is on its way: done or not, nobody here can know.

Nothing dies, and no answer may be given that is not known to be true.
"""

import base64
import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from ops import child
from tests import controls, stack
from tests.conftest import MakeTopic, StartProcess
from tests.functions.telegram_server import TelegramServer
from tests.functions.test_dlq_router import FAILED_RECORD, LETTER_LIMIT, failed_record
from tests.kills import proxies, topics
from tests.relay.conftest import Outbox
from tests.source import sinks
from tests.source.conftest import Group, write_manifest

Serve = Callable[[str, Mapping[str, str]], stack.Process]
When = Literal["before", "after"]
both = pytest.mark.parametrize("when", ["before", "after"])


# --- PostgreSQL: a commit that did not arrive, and one whose answer did not ----------------------------------------------


@pytest.fixture(scope="module")
def cut(postgres: stack.PostgresServer) -> Iterator[proxies.CommitCut]:
    with proxies.CommitCut(postgres.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def env(module_database: stack.TestDatabase, cut: proxies.CommitCut) -> dict[str, str]:
    """The DSNs of the module's database, through the proxy."""
    direct = module_database.environment()
    return {name: dsn.replace(f":{module_database.port}/", f":{cut.port}/") for name, dsn in direct.items()}


@both
def test_an_event_whose_commit_is_unknown_must_come_again_and_has_its_effect_once(
    serve: Serve, env: dict[str, str], cut: proxies.CommitCut, module_database: stack.TestDatabase, when: When
) -> None:
    assembly = serve("assembly_on_payment", env)
    payload = controls.paid()
    counts = """SELECT (SELECT count(*) FROM assembly_inbox_events WHERE event_id = :id),
                       (SELECT count(*) FROM order_outbox_events WHERE aggregate_id = :order)"""

    def rows() -> list[Any]:
        return module_database.run(counts, id=payload["event_id"], order=payload["order_id"])[0]

    cut.order(payload["event_id"], when)
    unknown = httpx.post(assembly.url, timeout=60, **controls.binary(payload))
    assert (unknown.status_code, unknown.json()["code"]) == (503, "database_away")
    assert rows() == {"before": [0, 0], "after": [1, 1]}[when]
    again = httpx.post(assembly.url, timeout=60, **controls.binary(payload))
    assert again.json() == {"outcome": {"before": "done", "after": "duplicate"}[when]}
    assert rows() == [1, 1]


@both
def test_an_order_whose_commit_is_unknown_is_placed_once(
    serve: Serve, env: dict[str, str], cut: proxies.CommitCut, module_database: stack.TestDatabase, when: When
) -> None:
    orders = serve("orders", env)
    user = controls.new_id("user-")
    request: dict[str, Any] = {"json": {"user_id": user, "items": [{"product_id": "a", "quantity": 1}]}}
    request["headers"] = {"Idempotency-Key": user}
    cut.order(user, when)
    assert httpx.post(f"{orders.url}/orders", timeout=60, **request).status_code == 503
    again = httpx.post(f"{orders.url}/orders", timeout=60, **request)
    assert (again.status_code, again.headers.get("idempotency-replayed")) == (201, {"before": None, "after": "true"}[when])
    assert module_database.run("SELECT id FROM orders WHERE user_id = :user", user=user) == [[again.json()["id"]]]


@both
@pytest.mark.parametrize(("nth", "what"), [(1, "claim"), (2, "mark")], ids=["claim", "mark"])
def test_a_message_repeats_only_where_its_mark_was_lost(
    serve: Serve, env: dict[str, str], cut: proxies.CommitCut, module_database: stack.TestDatabase, nth: int, what: str, when: When
) -> None:
    with TelegramServer() as telegram:
        settings = {"TELEGRAM_ENABLED": "true", "TELEGRAM_BOT_TOKEN": "1:x", "TELEGRAM_CHAT_ID": "4", "TELEGRAM_URL": telegram.url}
        notify = serve("notify", env | settings | {"NOTIFICATION_LEASE": "10m", "TELEGRAM_TIMEOUT": "1m"})
        payload = controls.paid()
        cut.order(payload["event_id"], when, nth)
        unknown = httpx.post(notify.url, timeout=60, **controls.binary(payload))
        assert (unknown.status_code, len(telegram.messages)) == (503, {"claim": 0, "mark": 1}[what])

        ends = "UPDATE notification_inbox_events SET lease_ends_at = clock_timestamp() WHERE event_id = :id AND status = 'claimed'"
        module_database.run(ends, id=payload["event_id"])
        again = httpx.post(notify.url, timeout=60, **controls.binary(payload))
        marked = (what, when) == ("mark", "after")
        assert again.json() == {"outcome": "duplicate" if marked else "done"}
        assert len(telegram.messages) == (2 if (what, when) == ("mark", "before") else 1)
        repeats = "no outcome of an earlier try was recorded" in notify.text
        assert repeats == ((what, when) in {("claim", "after"), ("mark", "before")})


@both
def test_a_letter_whose_commit_is_unknown_is_once_in_the_outbox(
    serve: Serve, env: dict[str, str], cut: proxies.CommitCut, module_database: stack.TestDatabase, unused_address: str, when: When
) -> None:
    router = serve("dlq_router", env | {"KAFKA_BROKERS": unused_address, "DLQ_PRODUCER_TIMEOUT": "500ms"})
    payload = controls.paid(amount=-1)
    order_id = payload["order_id"]
    cut.order(order_id, when)
    assert _hand_over(router, payload).status_code == 503
    again = _hand_over(router, payload)
    staged = module_database.run("SELECT event_id FROM order_outbox_events WHERE aggregate_id = :id", id=order_id)
    assert (again.status_code, [[again.json()["letter_id"]]]) == (200, staged)


@both
def test_rows_whose_mark_is_unknown_are_published_again_only_where_it_was_lost(
    start_process: StartProcess, env: dict[str, str], cut: proxies.CommitCut, module_database: stack.TestDatabase, kafka_brokers: str,
    make_topic: MakeTopic, when: When,
) -> None:  # fmt: skip
    outbox, topic = Outbox(module_database), make_topic()
    event_id, cuts = outbox.add(topic, b"key", b"1"), cut.cuts
    cut.order(event_id, when)
    relay = _relay(start_process, env | {"KAFKA_BROKERS": kafka_brokers})
    assert outbox.until(event_id)["attempts"] == 1
    assert relay.stop() == 0
    assert cut.cuts == cuts + 1
    values = [message.value() for message in topics.records(kafka_brokers, topic)]
    assert values == [b"1"] * {"before": 2, "after": 1}[when]


# --- Kafka: what it has done and could not tell ------------------------------------------------------------------------


class Proxied:
    """A broker whose clients come through a proxy."""

    def __init__(self, server: stack.KafkaServer, proxy: proxies.AnswerCut) -> None:
        self.server, self.proxy = server, proxy

    @property
    def brokers(self) -> str:
        """Its address through the proxy."""
        return f"{child.LOOPBACK}:{self.proxy.port}"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    inner, outer = child.free_ports(2)

    def more(plain: int, controller: int) -> Mapping[str, str]:
        here = child.LOOPBACK
        return {
            "listeners": f"PLAINTEXT://{here}:{plain},CONTROLLER://{here}:{controller},PROXIED://{here}:{inner}",
            "advertised.listeners": f"PLAINTEXT://{here}:{plain},PROXIED://{here}:{outer}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
        }

    server = stack.KafkaServer(tmp_path_factory.mktemp("kafka"), more)
    try:
        server.warm_up()
        with proxies.AnswerCut(inner, outer) as proxy:
            yield Proxied(server, proxy)
    finally:
        server.process.kill()


def test_a_record_whose_report_was_lost_is_on_its_topic_once(
    start_process: StartProcess, database: stack.TestDatabase, proxied: Proxied
) -> None:
    """The client asks again, and the broker knows the record by its number: the relay hears only that it is there."""
    outbox, topic = Outbox(database), proxied.server.make_topic()
    relay = _relay(start_process, database.environment() | {"KAFKA_BROKERS": proxied.brokers})
    outbox.until(outbox.add(topic, b"key", b"0"))  # its client is connected
    proxied.proxy.order(proxies.PRODUCE)
    cuts = proxied.proxy.cuts
    row = outbox.until(outbox.add(topic, b"key", b"1"))
    assert (row["attempts"], proxied.proxy.cuts) == (1, cuts + 1)
    assert relay.stop() == 0
    assert [message.value() for message in topics.records(proxied.server.brokers, topic)] == [b"0", b"1"]


def test_a_letter_whose_report_was_lost_is_on_its_topic_once(serve: Serve, database: stack.TestDatabase, proxied: Proxied) -> None:
    topic = proxied.server.make_topic(1, LETTER_LIMIT)
    names = {"KAFKA_BROKERS": proxied.brokers, "KAFKA_ORDER_PAYMENT_COMPLETED_DLQ_TOPIC": topic}
    router = serve("dlq_router", database.environment() | names)
    first = _hand_over(router, controls.paid(amount=-1))
    proxied.proxy.order(proxies.PRODUCE)
    cuts = proxied.proxy.cuts
    second = _hand_over(router, controls.paid(amount=-1))
    assert proxied.proxy.cuts == cuts + 1
    found = [json.loads(message.value() or b"")["letter_id"] for message in topics.records(proxied.server.brokers, topic)]
    assert found == [first.json()["letter_id"], second.json()["letter_id"]]


@pytest.fixture
def function_and_letters() -> Iterator[tuple[sinks.Sink, sinks.Sink]]:
    made = sinks.Sink(), sinks.Sink()
    yield made
    for sink in made:
        sink.close()


def test_an_offset_whose_commit_was_not_answered_is_committed(
    start_process: StartProcess, proxied: Proxied, function_and_letters: tuple[sinks.Sink, sinks.Sink], tmp_path: Path
) -> None:
    """Kafka has the offset and could not say so: nothing comes again, and the source goes on to commit."""
    group = Group(proxied.server.brokers, proxied.server.make_topic(), f"group-{uuid.uuid4().hex[:12]}", *function_and_letters)
    topics.begin(group.brokers, group.topic, group.name)
    group.produce(b"1")
    manifest = write_manifest(tmp_path / "sources.yaml", [group.document()])
    cuts = proxied.proxy.cuts
    proxied.proxy.order(proxies.OFFSET_COMMIT)
    command = [sys.executable, "-m", "connectors.kafka_source", "--manifest", str(manifest), "--control-port", "0"]
    source = start_process(command, {"KAFKA_BROKERS": proxied.brokers, "SINK_URLS": group.sink_urls})
    group.wait_committed(1)
    group.produce(b"2")
    group.wait_committed(2)
    assert source.stop() == 0
    assert (proxied.proxy.cuts, group.sink.offsets) == (cuts + 1, [0, 1])


def _relay(start_process: StartProcess, env: Mapping[str, str]) -> stack.Process:
    (port,) = child.free_ports(1)
    command = [sys.executable, "-m", "connectors.outbox_relay", "--control-port", str(port)]
    relay = start_process(command, {"RELAY_WORKERS": "2", "RELAY_SWEEP_INTERVAL": "200ms"} | dict(env), f"http://127.0.0.1:{port}")
    relay.wait_ready()
    return relay


def _hand_over(router: stack.Process, payload: controls.Payload) -> httpx.Response:
    told = failed_record(value=base64.b64encode(json.dumps(payload).encode()).decode())
    url = f"{router.url}/assembly-service/order.payment.completed"
    return httpx.post(url, content=json.dumps(told), headers={"content-type": FAILED_RECORD}, timeout=60)

"""Each alert of infra/alerts.yaml fires on what the processes really expose when something is wrong, and is silent when all is well."""

import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from confluent_kafka import Producer

from ops import child, home
from tests import conftest, controls, stack
from tests.functions import test_dlq_metrics
from tests.ops import promql
from tests.source import sinks

RULES: dict[str, Mapping[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((home.CHECKOUT / "infra" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
NOWHERE = "127.0.0.1:9"
STEP_S, LONG_S = 30, 3600
Texts = dict[str, str]


class Servers:
    """Processes of this module, ended with it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, list[stack.Process]()

    def start(self, command: list[str], env: Mapping[str, str]) -> stack.Process:
        (port,) = child.free_ports(1)
        command = [str(port) if word == "PORT" else word for word in command]
        log = self._folder / f"{len(self._made)}.log"
        self._made.append(stack.Process(child.guarded([sys.executable, *command]), env, log, url=f"http://127.0.0.1:{port}"))
        self._made[-1].wait_ready()
        return self._made[-1]

    def function(self, name: str, env: Mapping[str, str]) -> stack.Process:
        return self.start(["-m", "shared.server", "--source", f"functions/{name}/main.py", "--port", "PORT"], env)

    def relay(self, dsn: str) -> stack.Process:
        env = {"RELAY_POSTGRES_DSN": dsn, "KAFKA_BROKERS": NOWHERE, "POSTGRES_CONNECT_TIMEOUT": "1s"}
        return self.start(["-m", "connectors.outbox_relay", "--control-port", "PORT"], env)

    def end(self) -> None:
        for process in self._made:
            process.kill()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(tmp_path_factory.mktemp("alerts"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def two_databases(postgres: stack.PostgresServer) -> Iterator[list[stack.TestDatabase]]:
    """One where all is well, one where something is wrong."""
    made = [postgres.new_database(), postgres.new_database()]
    yield made
    for each in made:
        postgres.drop(each)


def scraped(process: stack.Process) -> str:
    return httpx.get(f"{process.url}/metrics", timeout=30).text


@pytest.fixture(scope="module")
def router(servers: Servers, two_databases: list[stack.TestDatabase]) -> Texts:
    """dlq_router with no open letter, with a new and an old one, and without its database."""
    well, wrong = two_databases
    test_dlq_metrics.put(wrong, "order-service", "value_error")
    test_dlq_metrics.put(wrong, "assembly-service", "value_error", age=timedelta(days=2))
    wrong.run("UPDATE dlq_letters SET last_failed_at = failed_at")
    dsns = {"well": well.dsn("orderflow_dlq"), "letters": wrong.dsn("orderflow_dlq"), "no index": f"postgresql://a:b@{NOWHERE}/orders"}
    return {name: scraped(servers.function("dlq_router", test_dlq_metrics.environment(dsn))) for name, dsn in dsns.items()}


@pytest.fixture(scope="module")
def relay(servers: Servers, two_databases: list[stack.TestDatabase]) -> Texts:
    """The relay with an empty outbox, with a row that was set aside and one that is late, and without its database."""
    well, wrong = two_databases
    for status, late in (("failed", "0 s"), ("pending", "10 min")):
        wrong.run(
            """INSERT INTO order_outbox_events (event_id, event_type, occurred_at, aggregate_id, payload, topic, status, due_at, producer)
               VALUES (:id, 'test', now(), 'o', '', 'order.payment.completed', :status, now() - :late::interval, 'test')""",
            id=str(uuid.uuid4()), status=status, late=late,
        )  # fmt: skip
    dsns = {"well": well.dsn("orderflow_relay"), "stuck": wrong.dsn("orderflow_relay"), "away": f"postgresql://a:b@{NOWHERE}/orders"}
    return {name: scraped(servers.relay(dsn)) for name, dsn in dsns.items()}


@pytest.fixture(scope="module")
def failing(servers: Servers, two_databases: list[stack.TestDatabase]) -> list[str]:
    """Scrapes of a function without its database, a few events in between."""
    function = servers.function(
        "order_on_assembled", {"ORDER_POSTGRES_DSN": f"postgresql://a:b@{NOWHERE}/orders", "POSTGRES_CONNECT_TIMEOUT": "1s"}
    )
    return _scrapes(function, 503)


@pytest.fixture(scope="module")
def working(servers: Servers, two_databases: list[stack.TestDatabase]) -> list[str]:
    """Scrapes of a function that works, a few events in between."""
    return _scrapes(servers.function("order_on_assembled", {"ORDER_POSTGRES_DSN": two_databases[0].dsn("orderflow_order")}), 200)


def _scrapes(function: stack.Process, status: int) -> list[str]:
    found = []
    for _ in range(20):
        answers = {httpx.post(function.url, **controls.binary(controls.assembled()), timeout=30).status_code for _ in range(2)}
        assert {status} == answers
        found.append(scraped(function))
    return found


@pytest.fixture(scope="module")
def source(servers: Servers, kafka_brokers: str, make_topic: conftest.MakeTopic, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A process with five sources: one is well, one waits for its function, one for dlq_router, one was paused, one's breaker is open."""
    names = ["well", "waiting", "no-router", "by-hand", "breaker"]
    made = {name: sinks.Sink() for name in (*names, "letters", "no-letters")}
    made["waiting"].stop()
    made["no-letters"].stop()
    for name in ("no-router", "breaker"):
        made[name].script = sinks.each(lambda _: sinks.refuse())
    topics = {name: make_topic() for name in names}
    documents = [_document(name, topics[name], "no-letters" if name == "no-router" else "letters") for name in names]
    manifest = tmp_path_factory.mktemp("sources") / "sources.yaml"
    manifest.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    producer = Producer(stack.CLIENT | {"bootstrap.servers": kafka_brokers})
    for name, count in {"well": 5, "waiting": 1500, "no-router": 1, "breaker": 20}.items():
        for n in range(count):
            producer.produce(topics[name], b"{}", str(n))
    assert producer.flush(stack.PATIENCE_S) == 0
    urls = ",".join(f"{name}={sink.url}" for name, sink in made.items())
    env = {"KAFKA_BROKERS": kafka_brokers, "SINK_URLS": urls, "BREAKER_CONSECUTIVE_MAX": "3"}
    process = servers.start(["-m", "connectors.kafka_source", "--manifest", str(manifest), "--control-port", "PORT"], env)
    assert httpx.post(f"{process.url}/sources/by-hand/pause", json={"reason": "a test"}, timeout=30).status_code == 200
    yield str(stack.eventually(lambda: _all_so(scraped(process)), "every source to be in its state"))
    for sink in made.values():
        sink.close()


def _document(name: str, topic: str, letters: str) -> dict[str, Any]:
    delivery = {"retry": 3, "backoffDelay": "PT0.05S", "timeout": "PT10S", "deadLetterSink": {"ref": {"name": letters}}}
    return {
        "apiVersion": "sources.knative.dev/v1", "kind": "KafkaSource",
        "metadata": {"name": name, "labels": {"kafkasources.sources.knative.dev/key-type": "byte-array"}},
        "spec": {
            "bootstrapServers": ["elsewhere:9092"], "topics": [topic], "consumerGroup": f"{name}-{topic}",
            "delivery": delivery, "sink": {"ref": {"name": name}},
        },
    }  # fmt: skip


def _all_so(text: str) -> str | None:
    wanted = [
        'orderflow_source_lag{source="well"} 0.0', 'orderflow_source_lag{source="waiting"} 1500.0',
        'orderflow_source_paused{by="outage",source="waiting"} 1.0', 'orderflow_source_paused{by="hand",source="by-hand"} 1.0',
        'orderflow_source_paused{by="breaker",source="breaker"} 1.0', 'orderflow_source_letters_waiting{source="no-router"} 1.0',
        *(f'orderflow_source_partitions{{source="{name}"}} 1.0' for name in ("well", "by-hand")),
    ]  # fmt: skip
    return text if all(line in text for line in wanted) else None


def only(text: str, source: str) -> str:
    """The exposition without the series of other sources."""
    return "\n".join(line for line in text.splitlines() if 'source="' not in line or f'source="{source}"' in line) + "\n"


def steady(texts: Mapping[str, str | None], until: int = LONG_S) -> promql.History:
    """Scrapes that say the same for an hour."""
    history = promql.History()
    for at in range(0, until + 1, STEP_S):
        for target, text in texts.items():
            history.scrape(target, at, text)
    return history


def fires(alert: str, texts: Mapping[str, str | None], until: int = LONG_S) -> list[dict[str, str]]:
    """For what the alert fires after an hour (or `until`) of the same, without labels that differ from run to run."""
    found = promql.firing(RULES[alert], steady(texts, until), until=until)
    return [{key: value for key, value in labels.items() if key not in {"__name__", "instance"}} for labels in found]


def archiver(failing_s: float) -> str:
    """As `orderflow dlq archive --follow` exposes it; tests/dlq/test_archive.py has it from the process."""
    from prometheus_client import generate_latest

    from ops.dlq import archive_metrics

    archive_metrics.watch(lambda: failing_s, lambda: 0)
    return generate_latest().decode()


@pytest.fixture(scope="module")
def well(router: Texts, relay: Texts, source: str) -> dict[str, str | None]:
    """Every process, and all is well."""
    return {"router": router["well"], "relay": relay["well"], "source": only(source, "well"), "archive": archiver(0)}


@pytest.mark.parametrize("alert", sorted(RULES))
def test_no_alert_fires_while_all_is_well(alert: str, well: dict[str, str | None]) -> None:
    assert fires(alert, well) == []


def test_a_new_letter_fires_at_once_and_an_old_one_after_a_day(router: Texts) -> None:
    texts = {"router": router["letters"]}

    assert [{"consumer": "order-service"}] == fires("NewDeadLetters", texts, until=0)
    assert [{"consumer": "assembly-service"}] == fires("OldDeadLetters", texts, until=300)
    assert fires("OldDeadLetters", texts, until=270) == []


def test_an_index_that_cannot_be_read_fires_and_so_does_a_router_that_is_away(router: Texts) -> None:
    assert [{}] == fires("DeadLettersUnknown", {"router": router["no index"]}, until=600)
    assert [{}] == fires("DeadLettersUnknown", {"router": None}, until=600)
    assert fires("NewDeadLetters", {"router": router["no index"]}) == []


@pytest.mark.parametrize(
    ("alert", "name"),
    [
        ("SourceLag", "waiting"),
        ("SourcePaused", "waiting"),
        ("SourcePausedByHand", "by-hand"),
        ("BreakerOpen", "breaker"),
        ("LetterNotSafe", "no-router"),
    ],
)
def test_each_trouble_of_a_source_fires_for_that_source(source: str, alert: str, name: str) -> None:
    held_s = int(promql._duration(RULES[alert].get("for", "0s")))

    assert [{"source": name}] == fires(alert, {"source": source}, until=held_s)
    assert held_s == 0 or fires(alert, {"source": source}, until=held_s - STEP_S) == []


def test_a_source_that_is_away_or_has_no_partition_fires(source: str) -> None:
    idle = only(source, "well").replace('orderflow_source_partitions{source="well"} 1.0', 'orderflow_source_partitions{source="well"} 0.0')

    assert [{}] == fires("SourceAway", {"source": None})
    assert [{"source": "well"}] == fires("SourceAway", {"source": idle})
    assert fires("SourceAway", {"source": idle, "replica": only(source, "well")}) == []


def test_a_row_that_was_set_aside_and_one_that_is_late_fire(relay: Texts) -> None:
    assert [[{}], [{}]] == [fires(alert, {"relay": relay["stuck"]}, until=120) for alert in ("OutboxRowSetAside", "OutboxLate")]
    assert fires("RelayAway", {"relay": relay["stuck"]}) == []


def test_a_relay_that_is_away_or_blind_fires(relay: Texts) -> None:
    assert [[{}], [{}]] == [fires("RelayAway", {"relay": text}, until=120) for text in (None, relay["away"])]
    assert [[], []] == [fires(alert, {"relay": relay["away"]}) for alert in ("OutboxRowSetAside", "OutboxLate")]


def test_an_archive_that_s3_refuses_for_long_fires() -> None:
    assert [[], [{}]] == [fires("ArchiveDelayed", {"archive": archiver(seconds)}) for seconds in (599, 601)]


def test_a_function_that_answers_5xx_fires_and_one_that_works_does_not(failing: list[str], working: list[str]) -> None:
    found = []
    for texts in (failing, working):
        history = promql.History()
        for n, text in enumerate(texts):
            history.scrape("function", n * STEP_S, text)
        found.append(promql.firing(RULES["FunctionFailing"], history, until=(len(texts) - 1) * STEP_S))

    assert [[{"function": "order_on_assembled"}], []] == found


def test_every_metric_of_the_rules_is_one_that_a_process_exposes(
    well: dict[str, str | None], router: Texts, source: str, working: list[str]
) -> None:
    known = steady(well | {"letters": router["letters"], "source": source, "function": working[0]}, until=0).names()

    used = {name for rule in RULES.values() for name in re.findall(r"orderflow_\w+", rule["expr"])}

    assert set() == used - known


def test_every_alert_has_a_first_step_in_the_documentation() -> None:
    table = (home.CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8").partition("## Alerts\n")[2].partition("\n## ")[0]

    assert sorted(RULES) == sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert all(rule["annotations"]["runbook"] == "docs/operations.md#alerts" for rule in RULES.values())


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("sum by (a) (orderflow_x)", {"1": 3.0, "2": 4.0}),
        ("max(orderflow_x) - 1", {"": 3.0}),
        ('orderflow_x{b!="u",a=~"1|2"} > 1', {"1 v": 2.0, "2 v": 4.0}),
        ("orderflow_x unless orderflow_x > 1", {"1 u": 1.0}),
        ("absent(orderflow_x > 9) or orderflow_x", {"": 1.0, "1 u": 1.0, "1 v": 2.0, "2 v": 4.0}),
        ("absent(orderflow_nan >= 0)", {"": 1.0}),
        ("increase(orderflow_c_total[1m])", {"": 70.0}),  # 10, 40, then a restart, 30
    ],
)  # fmt: skip
def test_the_evaluator_computes_as_prometheus_does(expression: str, expected: dict[str, float]) -> None:
    history = promql.History()
    for at, count in enumerate((10, 40, 30)):
        gauges = 'orderflow_x{a="1",b="u"} 1\norderflow_x{a="1",b="v"} 2\norderflow_x{a="2",b="v"} 4\norderflow_nan NaN\n'
        history.scrape("t", 20 * (at + 1), f"# TYPE orderflow_c counter\norderflow_c_total {count}\n{gauges}")

    value = promql.evaluate(expression, history, 60)

    assert isinstance(value, dict)
    assert expected == {
        " ".join(dict(labels)[key] for key in ("a", "b") if key in dict(labels)): pytest.approx(each) for labels, each in value.items()
    }


def test_the_evaluator_refuses_what_it_does_not_know() -> None:
    for expression in ("histogram_quantile(0.9, orderflow_x)", "orderflow_x offset 5m", "orderflow_x > bool 1"):
        with pytest.raises(AssertionError):
            promql.evaluate(expression, promql.History(), 0)

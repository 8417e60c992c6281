"""KafkaSource manifests, and what the environment and contracts/topics.yaml make of them."""

import copy
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka_source import manifest, plan
from ops import home
from ops.deployments import functions
from shared import config, errors, topics
from tests.source.conftest import write_manifest

OURS = home.CHECKOUT / "infra" / "knative" / "sources.yaml"
SINKS = ",".join(f"{function.service}=http://{function.service}:1" for function in functions.functions())


def document(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": manifest.API_VERSION,
        "kind": "KafkaSource",
        "metadata": {"name": "mine", "annotations": {}},
        "spec": {
            "bootstrapServers": ["b:9092"],
            "topics": ["t"],
            "consumerGroup": "g",
            "delivery": {"retry": 3, "backoffDelay": "PT0.5S", "deadLetterSink": {"ref": {"name": "dlq"}}},
            "sink": {"ref": {"name": "fn"}},
            **spec,
        },
    }


def planned(path: Path, *documents: Any, **settings: Any) -> tuple[plan.Source, ...]:
    values: dict[str, Any] = {"kafka_brokers": "127.0.0.1:9", "sink_urls": "fn=http://fn:1,dlq=http://dlq:1/base", **settings}
    return plan.sources(manifest.read(write_manifest(path / "m.yaml", documents)), config.Settings(**values))


def faults(path: Path, *documents: Any, **settings: Any) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        planned(path, *documents, **settings)
    return "\n".join(caught.value.faults)


def test_our_manifests_agree_with_the_catalogue() -> None:
    """Topic, group and dead-letter path of each of our sources are those of contracts/topics.yaml, and the waits are 1 s, 2 s, 4 s."""
    sources = plan.sources(manifest.read(OURS), config.Settings(sink_urls=SINKS))
    declared = {consumer.source: (topic.name, consumer.group) for topic, consumer in topics.read().consumers()}
    assert {source.name: (source.topics[0], source.group) for source in sources} == declared
    for source in sources:
        assert source.letter_url(source.topics[0]) == f"http://dlq-router:1/{source.group}/{source.topics[0]}"
        assert [source.delay_s(n) for n in (1, 2, 3)] == [1, 2, 4]
        assert (source.retries, source.timeout_s, source.ordered, source.earliest) == (3, 30, True, True)
        assert source.extensions == {"kafkatopic": source.topics[0]}
    leased = {consumer.source: consumer.leased for _, consumer in topics.read().consumers()}
    for source in sources:
        assert (source.batch_size, source.requests_in_flight) == ((1, 8) if leased[source.name] else (1000, 3)), source.name


def test_the_environment_comes_first_and_the_rest_follows_it() -> None:
    """An overridden topic and group reach kafkatopic and the dead-letter path; a consumer's own retries beat the general ones."""
    settings = config.Settings(
        sink_urls=SINKS,
        kafka_brokers="elsewhere:9092",
        overrides={"KAFKA_ORDER_PAYMENT_COMPLETED_TOPIC": "paid.v2", "KAFKA_ASSEMBLY_CONSUMER_GROUP_ID": "assembly-2"},
        kafka_retry_max_attempts=5,
        retries={"notification": config.Retry(max_attempts=7, backoff_base_s=3.0)},
    )
    assembly, notify, *_ = plan.sources(manifest.read(OURS), settings)
    assert (assembly.topics, assembly.group, assembly.brokers) == (("paid.v2",), "assembly-2", "elsewhere:9092")
    assert assembly.extensions == {"kafkatopic": "paid.v2"}
    assert assembly.letter_url("paid.v2") == "http://dlq-router:1/assembly-2/paid.v2"
    assert (assembly.retries, assembly.delay_s(1)) == (5, 1.0)
    assert (notify.retries, notify.delay_s(1)) == (7, 3.0)


def test_what_differs_is_logged_with_both_values_and_their_origins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A value that is not the manifest's is said, with where each came from."""
    caplog.set_level("INFO", "connectors")
    planned(tmp_path, document(), kafka_retry_max_attempts=1)
    assert "mine: retry is 1 (KAFKA_RETRY_MAX_ATTEMPTS), not 3 (manifest)" in caplog.messages
    assert "mine: brokers is 127.0.0.1:9 (KAFKA_BROKERS or APP_ENV), not b:9092 (manifest)" in caplog.messages


def test_several_consumers_are_said_to_be_processes_and_none_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A manifest that asks for three consumers is told how to get them here; one that is stopped is not read all the same."""
    planned(tmp_path, document(consumers=3))
    assert "mine: spec.consumers is 3, and this process is one: start as many of them" in caplog.messages
    assert "mine: spec.consumers: 0 stops a KafkaSource" in faults(tmp_path, document(consumers=0))


def test_every_fault_is_listed_with_its_document_and_field(tmp_path: Path) -> None:
    """Several faults in several documents: one message names them all."""
    first = document(ordering="sorted", consumers=-1)
    first["metadata"]["annotations"] = {"orderflow.dev/batch-size": "many", "orderflow.dev/batch-sise": "5", "other/x": "1"}
    second = document(delivery={"retry": 3, "backoffDelay": "0.5s", "timeout": "PT0S"})
    second["metadata"]["name"] = "second"
    found = faults(tmp_path, first, second)
    for field in (
        "spec.ordering",
        "spec.consumers",
        "metadata.annotations.orderflow.dev/batch-size",
        "metadata.annotations.orderflow.dev/batch-sise",
    ):
        assert f"m.yaml: document 1 (mine): {field}: " in found
    for field in ("spec.delivery.backoffDelay", "spec.delivery.timeout", "spec.delivery.deadLetterSink"):
        assert f"m.yaml: document 2 (second): {field}: " in found


def test_without_a_dead_letter_sink_it_refuses_to_start(tmp_path: Path) -> None:
    """Neither a delivery without one nor no delivery at all is accepted."""
    assert "spec.delivery.deadLetterSink: Field required" in faults(tmp_path, document(delivery={"retry": 3}))
    bare = document()
    del bare["spec"]["delivery"]
    assert "spec.delivery: Field required" in faults(tmp_path, bare)


def test_L09_a_dead_letter_topic_is_no_source_topic(tmp_path: Path) -> None:
    """A source that reads a dead-letter topic, or whose dead-letter sink is its own function, is refused."""
    assert "cannot be a source topic" in faults(tmp_path, document(topics=["order.notification.dlq"]))
    own = document(delivery={"deadLetterSink": {"uri": "http://fn:1/"}})
    assert "is the sink itself" in faults(tmp_path, own)


def test_a_backoff_of_nothing_is_refused(tmp_path: Path) -> None:
    """PT0S makes KafkaSource retry never, so here it is a fault."""
    delivery = document()["spec"]["delivery"] | {"backoffDelay": "PT0S"}
    assert "must be longer than PT0S" in faults(tmp_path, document(delivery=delivery))


def test_a_sink_without_an_address_is_named(tmp_path: Path) -> None:
    """Each Service that SINK_URLS does not know is listed; a template knows them all."""
    found = faults(tmp_path, document(), sink_urls="")
    assert "spec.sink.ref: no address for fn" in found
    assert "spec.delivery.deadLetterSink.ref: no address for dlq" in found
    (source,) = planned(tmp_path, document(), sink_urls="", sink_url_template="http://gateway:8080/function/{name}")
    assert source.sink == "http://gateway:8080/function/fn/"
    assert source.health == "http://gateway:8080/function/fn/health"
    assert source.letter_url("t") == "http://gateway:8080/function/dlq/g/t"


def test_addresses_by_uri(tmp_path: Path) -> None:
    """A uri alone is an address; one below a ref is joined to it."""
    delivery = document()["spec"]["delivery"] | {"deadLetterSink": {"ref": {"name": "dlq"}, "uri": "/other/path"}}
    (source,) = planned(tmp_path, document(sink={"uri": "https://f.example/a/b?q=1"}, delivery=delivery))
    assert (source.sink, source.health) == ("https://f.example/a/b?q=1", "https://f.example/health")
    assert source.letter_url("t") == "http://dlq:1/base/other/path"


def test_names_choose_documents_and_unknown_ones_are_faults(tmp_path: Path) -> None:
    """--source NAME reads that one; a name that is not there, and one that is there twice, are faults."""
    second = copy.deepcopy(document())
    second["metadata"]["name"] = "second"
    path = write_manifest(tmp_path / "m.yaml", [document(), {"kind": "Service"}, second])
    assert [found.name for found in manifest.read(path, ["second"])] == ["second"]
    with pytest.raises(errors.ConfigError, match="no KafkaSource is named third"):
        manifest.read(path, ["third"])
    assert "two documents have this name" in faults(tmp_path, document(), document())
    with pytest.raises(errors.ConfigError, match="holds no KafkaSource"):
        manifest.read(write_manifest(tmp_path / "n.yaml", [{"kind": "Service"}]))
    with pytest.raises(errors.ConfigError, match="nowhere"):
        manifest.read(tmp_path / "nowhere.yaml")


def test_secrets_of_kubernetes_need_settings_here(tmp_path: Path) -> None:
    """spec.net with TLS or SASL is not silently left out."""
    net = {"tls": {"enable": True}}
    assert "KAFKA_SECURITY_PROTOCOL" in faults(tmp_path, document(net=net))
    assert planned(tmp_path, document(net=net), kafka_security={"security.protocol": "SSL"})


@pytest.mark.parametrize(
    ("text", "seconds"), [("PT0.5S", 0.5), ("PT30S", 30), ("PT1M30S", 90), ("PT2H", 7200), ("P1D", 86_400), ("P1DT1S", 86_401), ("PT0S", 0)]
)
def test_iso_8601_durations(text: str, seconds: float) -> None:
    """Durations as Kubernetes writes them."""
    assert manifest.duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "30", "30s", "PT30", "T30S", "PT-1S", "P1DT", 30, None])
def test_what_is_no_iso_8601_duration(text: object) -> None:
    """Anything else is a fault, never a guess."""
    with pytest.raises(ValueError, match="ISO 8601"):
        manifest.duration_s(text)


def test_O18_no_delay_is_longer_than_ten_minutes(tmp_path: Path) -> None:
    """An exponential delay is capped, so that no event is parked for days."""
    delivery = document()["spec"]["delivery"] | {"retry": 100, "backoffDelay": "PT1M"}
    (source,) = planned(tmp_path, document(delivery=delivery))
    assert max(source.delay_s(n) for n in range(1, 101)) == 600
    (linear,) = planned(tmp_path, document(delivery=delivery | {"backoffPolicy": "linear"}))
    assert [linear.delay_s(n) for n in (1, 2, 3)] == [60, 120, 180]

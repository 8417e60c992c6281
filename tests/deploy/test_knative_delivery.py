"""How long an event can wait between its tries, on Knative and in our own source: every delay of every overlay, rendered."""

from pathlib import Path

import pytest
import yaml

from connectors.kafka_source import manifest, outage, plan
from ops import home
from shared import config, topics
from tests.deploy import kubernetes

KNATIVE = home.CHECKOUT / "infra" / "knative"
RETENTION_S = {topic.name: int(topic.config["retention.ms"]) / 1000 for topic in topics.read().topics}


def kafkasource_delays_s(delivery: manifest.Delivery) -> list[float]:
    """What KafkaSource waits before each retry: without jitter and without a cap."""
    tries = range(1, delivery.retry + 1)
    return [delivery.backoff_delay * (2**n if delivery.backoff_policy == "exponential" else n) for n in tries]


def written(overlay: str, path: Path) -> Path:
    """The KafkaSources of `overlay`, as a file: those of Knative, or those that our own source gets."""
    made = kubernetes.rendered(KNATIVE / "overlays" / overlay)
    sources = [one for one in made if one["kind"] == "KafkaSource"]
    given = [one["data"]["sources.yaml"] for one in made if "sources.yaml" in one.get("data", {})]
    path.write_text(given[0] if given else yaml.safe_dump_all(sources))
    return path


@pytest.mark.parametrize("overlay", ["dev", "prod", "lossless"])
def test_O18_no_overlay_parks_an_event_beyond_our_cap_or_its_topics_retention(overlay: str, tmp_path: Path) -> None:
    """Every delay by the formula of who waits it; the sum with every try timing out, and the dead-letter sink's after it, ends in time."""
    for document in manifest.read(written(overlay, tmp_path / "sources.yaml")):
        delivery = document.spec.delivery
        own = plan.sources([_without_secrets(document)], config.Settings(sink_url_template="http://{name}"))[0]
        ours = [own.delay_s(n) for n in range(1, own.retries + 1)]
        knatives = kafkasource_delays_s(delivery)
        assert knatives == ours
        assert (delivery.retry, sum(knatives)) == ((3, 7) if overlay == "lossless" else (10, 1023))
        assert max(knatives) <= plan.COUNTED_DELAY_MAX_S
        once = sum(knatives) + (len(knatives) + 1) * delivery.timeout
        assert 2 * once < RETENTION_S[own.topics[0]] / 100


def test_O18_what_is_nobodys_fault_is_asked_again_within_seconds() -> None:
    """Our own source's backoff is capped however long an outage lasts."""
    assert max(outage.backoff_s(n, None) for n in range(1, 2000)) <= outage.BACKOFF_MAX_S


def test_O18_the_formula_finds_a_delay_that_is_too_long() -> None:
    """Twenty tries, as one might write them, would park an event for six days at a time with KafkaSource; our own source caps them."""
    document = manifest.read(KNATIVE / "sources.yaml")[0]
    delivery = document.spec.delivery.model_copy(update={"retry": 20})
    assert max(kafkasource_delays_s(delivery)) == 524_288 > plan.COUNTED_DELAY_MAX_S
    (source,) = plan.sources([document], config.Settings(sink_url_template="http://{name}"))
    assert source.delay_s(20) == plan.COUNTED_DELAY_MAX_S


def _without_secrets(document: manifest.Document) -> manifest.Document:
    return document.model_copy(update={"spec": document.spec.model_copy(update={"net": None})})

"""Each thing that doctor can find, planted alone in a system in which all is in order: it is found, and nothing else is."""

import dataclasses

import pytest

from ops.doctor import checks
from ops.doctor.codes import CODES
from ops.doctor.sources import delays_s
from shared import topics
from tests.ops import patient
from tests.ops.patient import ASSEMBLED, LETTERS, OTHER, PAID, PLACE, Plant, environment, field, source, topic
from tests.ops.planted import DAY_MS, ODD, PLANTED, both, pod, server
from tests.unit import test_config


def test_nothing_is_found_where_all_is_in_order_and_every_check_was_made() -> None:
    report = checks.run(patient.healthy())

    assert ((), ()) == (report.findings, report.left)
    assert set(report.in_order) == CODES.keys()


@pytest.mark.parametrize(("code", "plant", "told"), PLANTED, ids=[f"{n}-{code}" for n, (code, _, _) in enumerate(PLANTED)])
def test_what_is_planted_is_found_and_nothing_else(code: str, plant: Plant, told: str) -> None:
    found = patient.found(plant(patient.healthy()))

    assert {code} == {finding.code for finding in found}
    assert any(told in finding.what for finding in found), found
    assert all(finding.do for finding in found)


@pytest.mark.parametrize(("code", "plant", "told"), ODD, ids=[code for code, _, _ in ODD])
def test_what_is_not_as_declared_is_found_for_what_follows_from_it_too(code: str, plant: Plant, told: str) -> None:
    found = patient.found(plant(patient.healthy()))

    assert {code} == {finding.code for finding in found} - {"topic_differs", "source_differs"}
    assert any(told in finding.what for finding in found if finding.code == code), found


def test_a_compacted_topic_loses_events_and_its_inbox_never_remembers_enough() -> None:
    found = patient.found(topic(ASSEMBLED, cleanup_policy="compact")(patient.healthy()))

    assert {"topic_compacted", "topic_differs", "inbox_never_enough", "letters_short"} == {finding.code for finding in found}


def test_a_topic_that_takes_larger_records_needs_larger_letters_and_larger_functions() -> None:
    found = patient.found(topic(PAID, max_message_bytes="4194304")(patient.healthy()))

    assert {"topic_differs", "records_too_large", "letters_small"} == {finding.code for finding in found}
    assert {"dlq_router: its producer takes 2162688"} <= {finding.what.partition(";")[0] for finding in found}


def test_a_dead_letter_topic_that_a_source_reads_is_named() -> None:
    found = patient.found(source("notify-payment", "spec.topics", [PAID, LETTERS])(patient.healthy()))

    assert {"letters_are_source", "source_differs"} == {finding.code for finding in found}


def test_a_retention_that_the_setting_makes_too_short_is_named_with_the_setting() -> None:
    """The functions would not start with it; doctor says so for every topic that is concerned."""
    found = patient.found(environment(INBOX_RETENTION="20d")(patient.healthy()))

    assert {"inbox_forgets"} == {finding.code for finding in found}
    assert all("keeps rows for 20 days (INBOX_RETENTION)" in finding.what for finding in found)
    assert all("INBOX_RETENTION=32d" in finding.do for finding in found)
    assert {"assembly_inbox_events", "notification_inbox_events", "order_inbox_events"} == {finding.what.split()[0] for finding in found}


def test_an_inbox_that_keeps_rows_for_longer_makes_room_for_a_longer_topic() -> None:
    of = both(environment(INBOX_RETENTION="62d"), topic(LETTERS, retention_ms=str(60 * DAY_MS)))(patient.healthy())

    assert {"topic_differs"} == {finding.code for finding in patient.found(of)}


def test_one_broker_is_no_fault_on_a_laptop_and_is_one_in_production() -> None:
    single = {"leader": 1, "replicas": (1,), "in_sync": (1,)}
    names = [one.name for one in patient.CATALOGUE.all()]
    one_broker = both(field(brokers=1), *(topic(name, single, min_insync_replicas="1") for name in names))(patient.healthy())

    assert [] == patient.found(one_broker.with_(prod=False))
    assert {"replication_single", "topic_differs"} == {finding.code for finding in patient.found(one_broker)}


def test_our_own_source_caps_its_delays_and_may_have_a_token() -> None:
    of = both(source("notify-payment", "spec.delivery.retry", 20), pod("notify", DELIVERY_TOKEN_FILE="/run/secrets/token"))(
        patient.healthy()
    )
    own = [dataclasses.replace(one, knative=False) for one in of.sources or ()]

    assert [] == patient.found(of.with_(sources=own))
    assert 600 == max(max(delays_s(one)) for one in own)


def test_a_contract_step_may_wait_and_a_newer_database_is_no_fault() -> None:
    assert [] == patient.found(field(revisions={PLACE: "0003", OTHER: "0009"})(patient.healthy()))


def test_a_pool_is_reckoned_at_one_instance_on_a_laptop() -> None:
    few = server("max_connections", "40")(patient.healthy())

    assert [] == patient.found(few.with_(prod=False))


def test_parked_events_whose_letters_are_beside_them_are_fine() -> None:
    assert [] == patient.found(environment(NOTIFICATION_PARKING="true")(patient.healthy()))


def test_names_of_the_environment_are_no_difference_of_the_manifests() -> None:
    settings = test_config.load(KAFKA_ORDER_PAYMENT_COMPLETED_TOPIC="other", KAFKA_ASSEMBLY_CONSUMER_GROUP_ID="another")
    catalogue = topics.catalogue(settings)
    of = patient.healthy().with_(settings=settings, catalogue=catalogue, live={one.name: patient.live(one) for one in catalogue.all()})

    assert [] == patient.found(of)


def test_every_code_is_planted_by_some_test() -> None:
    elsewhere = {"topic_compacted", "records_too_large"}

    assert CODES.keys() == {code for code, _, _ in PLANTED + ODD} | elsewhere
    assert CODES.keys() == checks.known()


def test_a_topic_of_its_own_without_a_limit_needs_letters_without_one() -> None:
    found = patient.found(topic(PAID, retention_ms="-1")(patient.healthy()))

    assert any(finding.do.startswith("retention.ms=-1 or more") for finding in found if finding.code == "letters_short")

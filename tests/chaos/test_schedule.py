"""What a run does follows from its seed, and no seed leaves anything out."""

from collections import Counter
from itertools import islice, pairwise, takewhile

import pytest

from chaos import plan, poison, schedule
from chaos.schedule import Planned
from shared import cloudevent, errors, events
from tests import controls

SEEDS = (1, 7, 2026)


def _minutes(seed: int, minutes: float) -> list[Planned]:
    return list(takewhile(lambda fault: fault.at_s <= minutes * 60, schedule.faults(seed)))


def test_the_same_seed_gives_the_same_faults_and_the_same_load() -> None:
    assert _minutes(7, 20) == _minutes(7, 20)
    assert list(islice(plan.steps(7), 5000)) == list(islice(plan.steps(7), 5000))
    assert _minutes(7, 1) != _minutes(8, 1)
    assert list(islice(plan.steps(7), 50)) != list(islice(plan.steps(8), 50))


@pytest.mark.parametrize("seed", SEEDS)
def test_four_minutes_have_two_hundred_faults_and_every_kind_for_every_target(seed: int) -> None:
    found = _minutes(seed, 4)
    assert len(found) > 220
    assert {(fault.kind, fault.target) for fault in found} == set(schedule.pairs())


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_overlap_within_bounds_and_leave_the_system_air(seed: int) -> None:
    found = _minutes(seed, 30)
    lasting = [fault for fault in found if fault.lasts_s]
    at_once = Counter(sum(one.at_s <= fault.at_s < one.at_s + one.lasts_s for one in lasting) for fault in lasting)
    assert 2 <= max(at_once) <= schedule.LASTING_MAX
    calm = schedule.CYCLE_S - schedule.CALM_S
    assert all(fault.at_s % schedule.CYCLE_S + fault.lasts_s <= calm + 0.02 for fault in found)
    of_servers = [fault for fault in found if fault.target in schedule.SERVERS]
    rests = [later.at_s - (one.at_s + one.lasts_s) for one, later in pairwise(of_servers)]
    assert min(rests) >= schedule.SERVER_REST_S - 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_the_load_has_everything_and_repeats_only_what_was_sent(seed: int) -> None:
    steps = list(islice(plan.steps(seed), 3000))
    assert {step.what for step in steps} == set(plan.WEIGHTS) | {"reordered"}
    assert {step.detail for step in steps if step.what == "poison"} == set(poison.KINDS)
    sent: dict[int, plan.Step] = {}
    last_of_chain: dict[int, int] = {}
    for step in steps:
        if step.what in {"duplicate", "reordered", "early"}:
            assert step.of in sent
        if step.what == "reordered":
            assert sent[step.of].chain == step.chain
            assert sent[step.of].place < last_of_chain[step.chain]
        if step.what == "event":
            last_of_chain[step.chain] = step.place
        sent[step.n] = step


@pytest.mark.parametrize("kind", poison.KINDS)
def test_every_kind_of_poison_is_refused_and_the_event_it_was_made_from_is_not(kind: str) -> None:
    event = events.OrderPaid.model_validate(controls.paid())
    assert not _refused(poison.Raw(event.value(), event.headers()))
    assert _refused(poison.make(kind, event))


def _refused(raw: poison.Raw) -> bool:
    headers = {name.replace("ce_", "ce-"): text for name, text in raw.headers.items()}
    if "ce-id" not in headers:  # as a source wraps it
        headers = {"ce-specversion": "1.0", "ce-id": "partition:0/offset:0", "ce-type": events.KNATIVE_KAFKA_TYPE, "ce-source": "/test"}
    try:
        delivery = cloudevent.read_one(headers, raw.value or b"")
        event = events.read(delivery.payload, events.known())
    except errors.OrderflowError as refusal:
        return refusal.status in {400, 413, 415, 422}
    return not delivery.names(event.event_id)

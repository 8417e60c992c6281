"""Ids that are made here begin with their time, and one that is derived is always the same."""

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events, ids

SPACE = events.NAMESPACE
OTHERS = ["payment-order-17325-17326", "6F1D3A52-0C1E-7B0E-9A53-7C2F64D1E8B4", "019afb04-c1a2-7000-0000-000000000000", "", "é" * 128]


def milliseconds(made: str) -> int:
    """The time that an id begins with, ms since 1970."""
    return uuid.UUID(made).int >> 80


def test_a_new_id_is_a_uuid_of_version_7_that_begins_with_its_time() -> None:
    before = time.time_ns() // 1_000_000
    made = ids.new()
    parsed = uuid.UUID(made)
    assert (made, 7, uuid.RFC_4122) == (str(parsed), parsed.version, parsed.variant)
    assert before <= milliseconds(made) <= time.time_ns() // 1_000_000


def test_new_ids_are_sorted_by_their_time_and_differ_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for ms in (1, 255, 1_764_086_400_000, 1_764_086_400_001, 2**48 - 1):
        monkeypatch.setattr(time, "time_ns", lambda ms=ms: ms * 1_000_000)
        group = [ids.new() for _ in range(100)]
        assert len(set(group)) == len(group)
        assert {milliseconds(one) for one in group} == {ms}
        made.append(group)
    flat = [one for group in made for one in sorted(group)]
    assert flat == sorted(flat)


@given(st.uuids(version=4).map(str) | st.uuids(version=5).map(str) | st.sampled_from(OTHERS) | st.text(max_size=128))
def test_what_is_derived_from_an_id_without_a_time_is_a_uuid_of_version_5(cause: str) -> None:
    assert ids.derived(SPACE, f"name/{cause}", cause) == str(uuid.uuid5(SPACE, f"name/{cause}"))


@given(st.text(max_size=50))
def test_what_is_derived_from_an_id_with_a_time_begins_with_it_and_so_does_what_is_derived_from_that(name: str) -> None:
    cause = ids.new()
    made = ids.derived(SPACE, name, cause)
    next_made = ids.derived(SPACE, name, made)
    for each in (made, next_made):
        parsed = uuid.UUID(each)
        assert (each, 8, uuid.RFC_4122, cause[:13]) == (str(parsed), parsed.version, parsed.variant, each[:13])
    assert made == ids.derived(SPACE, name, cause)
    assert made != ids.derived(SPACE, name + "x", cause)


def test_the_rule_never_changes() -> None:
    assert events.derived_id("assembly-service", "order.assembly.completed", 0, "paid-1") == "0a34f21b-ef70-5366-b279-7b4d5446cba4"
    cause = "019afb04-c1a2-7abc-8def-0123456789ab"
    assert events.derived_id("assembly-service", "order.assembly.completed", 0, cause) == "019afb04-c1a2-8344-b71d-ddf485da17e0"

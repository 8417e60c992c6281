"""Python values become PostgreSQL's literals, or are refused before the driver sees them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import errors, literals
from tests import stack

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@pytest.fixture(scope="module")
def some_database(postgres: stack.PostgresServer) -> Iterator[stack.TestDatabase]:
    made = postgres.new_database()
    yield made
    postgres.drop(made)


def test_each_type_has_its_literal() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    given_values = [None, "a", True, 7, 1.5, b"\x00\xff", moment, {"a": 1}, ["a", None]]
    wanted = [None, "a", "t", "7", "1.5", "\\x00ff", "2026-01-02T03:04:05+00:00", '{"a": 1}', '{"a",NULL}']
    assert wanted == [literals.text(value) for value in given_values]


@pytest.mark.parametrize("value", ["\ud800", ["a", "\udfff"]])
def test_half_a_surrogate_pair_is_refused(value: object) -> None:
    with pytest.raises(errors.Refused, match="surrogate"):
        literals.text(value)


def test_nul_in_an_array_is_refused_and_not_taken_for_a_separator() -> None:
    with pytest.raises(errors.Refused, match="NUL"):
        literals.array(["a\x00b", "c"])


def test_a_type_without_a_literal_is_a_fault_of_the_caller() -> None:
    with pytest.raises(TypeError, match="object"):
        literals.text(object())


@given(st.lists(TEXTS | st.none() | st.just("null")))
def test_an_array_comes_back_as_it_was(some_database: stack.TestDatabase, values: list[str | None]) -> None:
    assert [[values]] == some_database.run("SELECT :values::text[]", values=values)


@given(st.lists(st.binary()))
def test_an_array_of_bytes_comes_back_as_it_was(some_database: stack.TestDatabase, values: list[bytes]) -> None:
    assert [[values]] == some_database.run("SELECT :values::bytea[]", values=values)


@given(st.lists(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(hours=5))]))))
def test_an_array_of_times_comes_back_as_it_was(some_database: stack.TestDatabase, values: list[datetime]) -> None:
    in_python = [value for value in values if 1 < value.year < 9999]  # PostgreSQL knows more years than Python, and gives them as text
    assert [[in_python]] == some_database.run("SELECT :values::timestamptz[]", values=in_python)

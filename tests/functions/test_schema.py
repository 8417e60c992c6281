"""A function and a database of another version: it says so, blames no event, and goes on by itself when they go together."""

from typing import Any

import httpx
import pytest

from shared import errors, schema
from tests import controls, stack


class Noted:
    """A connection to a database with this note."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    def run(self, _sql: str, _params: dict[str, object]) -> list[list[Any]]:
        return [[self._text]]


@pytest.mark.parametrize("noted", [schema.note("0003", "0001"), schema.note("0003", "0003"), schema.note("9999", "0002")])
def test_a_database_that_is_as_new_or_newer_will_do(noted: str) -> None:
    schema.check(Noted(noted), needs="0003")


@pytest.mark.parametrize(
    ("noted", "said"),
    [
        (None, "says nothing of its migrations, and this version needs 0003: run its `orderflow migrate`"),
        ("something else", "says nothing"),
        (schema.note("0002", "0001"), "is at migration 0002, and this version needs 0003"),
        (schema.note("0009", "0008"), "has given up what versions before migration 0008 need"),
    ],
)
def test_one_that_is_older_or_has_left_this_version_behind_will_not(noted: str | None, said: str) -> None:
    with pytest.raises(errors.Unavailable, match=said) as caught:
        schema.check(Noted(noted), needs="0003")
    assert caught.value.code == "migration"


def test_a_function_on_a_database_that_is_not_migrated_waits_for_it(database: stack.TestDatabase, start_function: Any) -> None:
    """503 with the reason to probes and deliveries, one line in the log; then it works, without a restart."""
    _note(database, "0001", "0001")
    function = start_function("order_on_assembled", {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order"), "LOG_FORMAT": "json"})
    payload = controls.assembled()

    for noted, said in ((("0001", "0001"), "at migration 0001"), (("9999", "9999"), "before migration 9999")):
        _note(database, *noted)
        stack.eventually(lambda said=said: said in _ready(function).text, said)
        ready = _ready(function)
        delivered = httpx.post(function.url, **controls.binary(payload), timeout=30)
        assert [(503, "migration")] * 2 == [(answer.status_code, answer.json()["code"]) for answer in (ready, delivered)]
        assert f'"reason": "the database {"is" if noted[0] == "0001" else "has given up"}' in function.text

    _note(database, "9999", schema.NEEDS)
    stack.eventually(lambda: _ready(function).status_code == 200, "it to be ready")
    assert {"outcome": "done"} == httpx.post(function.url, **controls.binary(payload), timeout=30).json()
    assert function.text.count("do not go together") == 2


def _ready(function: stack.Process) -> httpx.Response:
    return httpx.get(f"{function.url}/ready", timeout=30)


def _note(database: stack.TestDatabase, newest: str, since: str) -> None:
    database.run(f"COMMENT ON TABLE alembic_version IS '{schema.note(newest, since)}'")

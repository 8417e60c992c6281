"""Bytes, keys and headers of any kind come back identical: through the topic, the index and the commands."""

import base64
import itertools
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.dlq import originals, view
from tests.dlq.desk import ORDER, Desk

OFFSETS = itertools.count(1000)
NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=40)), max_size=5).map(tuple)
JSONS = st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=12), max_size=4).map(lambda found: json.dumps(found).encode())
VALUES = st.none() | st.binary(max_size=200) | JSONS
RECORDS = st.tuples(st.none() | st.binary(max_size=40), VALUES, HEADERS)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(RECORDS, min_size=1, max_size=8))
def test_a_record_comes_back_as_it_was(desk: Desk, records: list[tuple[Any, Any, Any]]) -> None:
    """Letters written to the topic and read back by the commands; the last of each example through `show --raw` and `--json` too."""
    made = [desk.letter(ORDER, value, key=key, headers=headers, offset=next(OFFSETS)) for key, value, headers in records]
    desk.write(ORDER, *made)
    key, value, headers = records[-1]
    shown = desk.dlq("show", made[-1].letter_id, "--json").json()
    assert (_bytes(shown["key"]), _bytes(shown["value"])) == (key, value)
    assert tuple((header["name"], _decoded(header["base64"])) for header in shown["headers"]) == headers
    assert desk.dlq("show", made[-1].letter_id).code == 0
    rows = desk.database.run("SELECT letter_id, value FROM dlq_letters WHERE letter_id = ANY(:ids)", ids=[one.letter_id for one in made])
    indexed = {letter_id: bytes(body) for letter_id, body in rows}
    for one, (key, value, headers) in zip(made, records, strict=True):
        assert indexed[one.letter_id] == one.value
        assert view.record(indexed[one.letter_id])[:3] == (key, value, headers)
        again = originals.of_letter(json.loads(indexed[one.letter_id]))
        assert (again.key, again.value) == (key, value)


def test_a_record_at_the_brokers_limit_and_one_of_every_byte_come_back_raw(desk: Desk) -> None:
    """A megabyte, byte for byte, on standard output of a real process."""
    every = bytes(range(256))
    large = every * 4080
    for value in (every, large):
        [letter_id] = desk.fails(ORDER, value, key=every, headers=(("all", every),))
        assert desk.alone("show", letter_id, "--raw").stdout == value


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _bytes(told: dict[str, Any] | None) -> bytes | None:
    return None if told is None else base64.b64decode(told["base64"])

"""`orderflow dlq edit`: a mended letter stands in for the original, which is never sent."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.dlq import view
from tests import controls
from tests.dlq.desk import ASSEMBLED, ORDER, PAYMENT, Desk
from tests.source import sinks

PLACE = ("topic", "partition", "message_offset", "failed_at", "fingerprint", "consumer", "letter_key")


def edited(desk: Desk, letter_id: str, *arguments: str) -> dict[str, Any]:
    """What a successful edit tells."""
    found: dict[str, Any] = desk.dlq("edit", letter_id, *arguments, "--yes", "--json").json()
    return found


def record(desk: Desk, letter_id: str) -> view.Record:
    [[value]] = desk.database.run("SELECT value FROM dlq_letters WHERE letter_id = :id", id=letter_id)
    return view.record(bytes(value))


def test_a_field_is_set_and_the_lineage_kept(desk: Desk) -> None:
    """A new letter with the same place, cause and event id; the original superseded; both say so in their history."""
    payload = controls.paid(amount="12")
    [old] = desk.fails(PAYMENT, payload, place="amount", key=payload["order_id"].encode(), headers=(("x", b"\xff"),))
    told = edited(desk, old, "--set", "amount=12")
    new = told["letter_id"]
    assert (told["superseded"], told["event_id"]) == (old, payload["event_id"])
    assert '-  "amount": "12",' in told["diff"].splitlines()
    assert '+  "amount": 12,' in told["diff"].splitlines()
    held = record(desk, new)
    assert json.loads(held.value or b"") == payload | {"amount": 12}
    assert (held.key, held.headers) == (payload["order_id"].encode(), (("x", b"\xff"),))
    before, after = (desk.dlq("show", letter_id, "--json").json() for letter_id in (old, new))
    assert [before[name] for name in PLACE] == [after[name] for name in PLACE]
    assert (before["state"], before["replaced_by"], after["state"], after["parent_letter_id"]) == ("superseded", new, "open", old)
    assert ([line["what"] for line in before["history"]], [line["what"] for line in after["history"]]) == (["superseded"], ["edited"])
    assert before["lineage"] == after["lineage"] == [{"letter_id": old, "state": "superseded"}, {"letter_id": new, "state": "open"}]
    assert [letter["letter_id"] for letter in desk.listed()] == [new]
    assert json.loads(record(desk, old).value or b"") == payload


def test_D04_of_an_edited_letter_only_the_new_version_is_sent(desk: Desk, new_sink: Callable[[], sinks.Sink]) -> None:
    """By its cause, and by the original's id: one send, with the event's own id."""
    sink = new_sink()
    desk.sinks(order_on_assembled=sink.url)
    payload = controls.assembled(user_id=7)
    [old] = desk.fails(ORDER, payload, place="user_id")
    new = edited(desk, old, "--set", 'user_id="user-7"')["letter_id"]
    assert desk.dlq("replay", old, "--yes").code != 0
    cause = desk.listed()[0]["fingerprint"]
    assert desk.dlq("replay", "--cause", cause, "--yes").code == 0
    [event] = sink.events
    assert event.json == payload | {"user_id": "user-7"}
    states = {letter["letter_id"]: letter["state"] for letter in desk.listed("--state", "all")}
    assert states == {old: "superseded", new: "done"}


def test_a_second_edit_works_on_the_newest_version_and_says_so(desk: Desk) -> None:
    """Asked for by the original's id; three versions, of which one is open."""
    [first] = desk.fails(PAYMENT, controls.paid(amount=-1, payment_method=""))
    ran = desk.dlq("edit", first, "--set", "amount=1", "--yes")
    assert (ran.code, "payment_method" in ran.err) == (1, True)
    second = edited(desk, first, "--set", "amount=1", "--set", "payment_method=card")["letter_id"]
    ran = desk.dlq("edit", first, "--set", "amount=2", "--yes", "--json")
    assert "this is about its newest version" in ran.err
    told = ran.json()
    assert told["superseded"] == second
    versions = desk.dlq("show", first, "--json").json()["lineage"]
    assert versions == [
        {"letter_id": first, "state": "superseded"},
        {"letter_id": second, "state": "superseded"},
        {"letter_id": told["letter_id"], "state": "open"},
    ]
    assert json.loads(record(desk, told["letter_id"]).value or b"")["payment_method"] == "card"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--set", "amount=cheap"), "amount: "),
        (("--set", "amount=-1", "--set", "user_id=[]"), "user_id: "),
        (("--unset", "payment_method"), "payment_method: "),
        (("--set", "event_type=order.lost"), "event_type: "),
        (("--set", "event_version=7"), "event_version: "),
        (("--set", "occurred_at=today"), "occurred_at: "),
        (("--set", "user_id=user-7"), "nothing was changed"),
    ],
)
def test_what_the_events_model_does_not_take_is_refused_by_its_field(desk: Desk, arguments: tuple[str, ...], named: str) -> None:
    """Exit code 1, and nothing is changed."""
    [letter_id] = desk.fails(PAYMENT, controls.paid())
    ran = desk.dlq("edit", letter_id, *arguments, "--yes")
    assert (ran.code, named in ran.err) == (1, True), ran.err
    assert [(letter["letter_id"], letter["state"]) for letter in desk.listed("--state", "all")] == [(letter_id, "open")]


@pytest.mark.parametrize("path", ["", "user_id.x", "items.0", "a.b"])
def test_a_path_that_leads_nowhere_is_a_wrong_command_line(desk: Desk, path: str) -> None:
    """Exit code 2, and the path is named."""
    [letter_id] = desk.fails(PAYMENT, controls.paid())
    ran = desk.dlq("edit", letter_id, "--set", f"{path}=1", "--yes")
    assert (ran.code, path in ran.err) == (2, True)
    assert desk.dlq("edit", letter_id, "--unset", "nothing", "--yes").code == 2


def test_a_path_reaches_into_lists_and_names_with_dots(desk: Desk) -> None:
    """`items.0.n` and `a\\.b`; a value is JSON where it reads as such, else text."""
    [letter_id] = desk.fails(PAYMENT, controls.paid(items=[{"n": 1}], **{"a.b": 0}))
    told = edited(desk, letter_id, "--set", "items.0.n=2", "--set", r"a\.b=true", "--set", "new=a text", "--set", "more=null")
    found = json.loads(record(desk, told["letter_id"]).value or b"")
    assert (found["items"], found["a.b"], found["new"], found["more"]) == ([{"n": 2}], True, "a text", None)


def test_an_event_without_an_id_gets_one_of_its_letter(desk: Desk) -> None:
    """Derived from the letter's id, so that the same edit makes the same event; an id that is edited is the new one."""
    [letter_id] = desk.fails(ORDER, controls.without(controls.assembled(), "event_id", "user_id"))
    [twin] = desk.fails(ORDER, controls.assembled())
    told = edited(desk, letter_id, "--set", "user_id=user-7")
    assert told["event_id"]
    assert json.loads(record(desk, told["letter_id"]).value or b"")["event_id"] == told["event_id"]
    again = edited(desk, told["letter_id"], "--set", "user_id=user-8")
    assert again["event_id"] == told["event_id"]
    assert edited(desk, twin, "--set", "event_id=mine")["event_id"] == "mine"


def test_the_names_around_a_payload_follow_it(desk: Desk) -> None:
    """Headers of a binary event, attributes of a structured one, and the key: a function refuses an event whose names differ."""
    payload = controls.assembled()
    around = tuple((f"ce_{name}", value.encode()) for name, value in controls.attributes(payload, partitionkey=payload["order_id"]).items())
    [binary] = desk.fails(ASSEMBLED, payload, headers=around, key=payload["order_id"].encode())
    told = edited(desk, binary, "--set", "event_id=e-2", "--set", "order_id=o-2")
    held = record(desk, told["letter_id"])
    headers = {name: (value or b"").decode() for name, value in held.headers}
    assert (headers["ce_id"], headers["ce_subject"], headers["ce_partitionkey"], held.key) == ("e-2", "o-2", "o-2", b"o-2")
    assert headers["ce_source"] == "/orderflow/assembly"
    assert "+ce_id: e-2" in told["diff"].splitlines()
    structured = controls.element(controls.assembled(event_id="e-1"))
    [letter_id] = desk.fails(ASSEMBLED, structured, headers=(("content-type", b"application/cloudevents+json"),))
    told = edited(desk, letter_id, "--set", "data.event_id=e-3")
    assert json.loads(record(desk, told["letter_id"]).value or b"")["id"] == "e-3"


def test_a_value_that_is_no_json_is_given_whole(desk: Desk, tmp_path: Path) -> None:
    """--set has nothing to set it in; --file takes a file, or standard input, and the bytes are sent as they are."""
    payload = controls.paid()
    [letter_id] = desk.fails(PAYMENT, json.dumps(payload).encode()[:-9], code="unreadable")
    ran = desk.dlq("edit", letter_id, "--set", "amount=1", "--yes")
    assert (ran.code, "--file" in ran.err) == (1, True)
    whole = json.dumps(payload, indent=1).encode()
    ran = desk.dlq("edit", letter_id, "--file", "-", "--yes", "--json", given=whole)
    assert record(desk, ran.json()["letter_id"]).value == whole
    assert desk.dlq("edit", letter_id, "--file", str(tmp_path / "none"), "--yes").code == 2


def test_in_an_editor(desk: Desk, tmp_path: Path, start_in_terminal: Callable[..., tuple[int, str]]) -> None:
    """$EDITOR gets the value indented; the diff is shown, and the answer to the question decides."""
    [letter_id] = desk.fails(PAYMENT, controls.paid(amount="5"))
    script = tmp_path / "editor.py"
    script.write_text("import sys\np = sys.argv[1]\ns = open(p).read()\nassert '\\n  ' in s\nopen(p, 'w').write(s.replace('\"5\"', '5'))\n")
    desk.env["EDITOR"] = f"{sys.executable} {script}"
    code, shown = start_in_terminal(["dlq", "edit", letter_id], desk.env, answer="n\n")
    assert (code, "nothing was changed" in shown) == (1, True), shown
    code, shown = start_in_terminal(["dlq", "edit", letter_id], desk.env, answer="y\n")
    assert code == 0, shown
    assert '+  "amount": 5,' in shown
    [letter] = desk.listed()
    assert letter["parent_letter_id"] == letter_id
    desk.env["EDITOR"] = f"{sys.executable} -c 'raise SystemExit(3)'"
    assert start_in_terminal(["dlq", "edit", letter_id], desk.env)[0] == 1
    assert desk.dlq("edit", letter_id, "--yes").code == 2


def test_a_letter_that_is_not_open_is_not_edited(desk: Desk) -> None:
    """Done, discarded, or in an open run: exit code 1, with what to do."""
    done, given_up, busy = desk.fails(PAYMENT, *(controls.paid() for _ in range(3)))
    desk.dlq("discard", given_up, "--reason", "x", "--yes")
    desk.database.run("UPDATE dlq_letters SET state = 'done' WHERE letter_id = :id", id=done)
    desk.database.run("INSERT INTO dlq_runs (run_id, kind, who) VALUES ('r', 'letters', 'me')")
    desk.database.run("INSERT INTO dlq_run_items (run_id, n, letter_id, consumer) VALUES ('r', 1, :id, 'c')", id=busy)
    for letter_id, named in ((done, "is done"), (given_up, "orderflow dlq restore"), (busy, "open run r")):
        ran = desk.dlq("edit", letter_id, "--set", "amount=1", "--yes")
        assert (ran.code, named in ran.err) == (1, True), ran.err


def test_a_rebuild_does_not_bring_the_original_back(desk: Desk) -> None:
    """Superseded stays superseded, also when its record fails once more."""
    payload = controls.paid(amount="1")
    first = desk.letter(PAYMENT, payload, offset=9)
    desk.write(PAYMENT, first)
    new = edited(desk, first.letter_id, "--set", "amount=1")["letter_id"]
    desk.write(PAYMENT, desk.letter(PAYMENT, payload, offset=9))
    assert desk.dlq("sync", "--rebuild").code == 0
    assert [letter["letter_id"] for letter in desk.listed()] == [new]
    assert desk.history(first.letter_id) == ["superseded", "failed again"]

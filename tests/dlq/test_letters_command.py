"""`orderflow dlq`: what its commands that look at letters and mark them print, do and exit with."""

import hashlib
import json
import signal
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Producer

from tests import conftest, controls, stack
from tests.dlq.desk import ASSEMBLY, ORDER, PAYMENT, Desk

EARLIER = datetime(2025, 11, 24, 12, 0, tzinfo=UTC)


def test_groups_show_each_cause_with_its_age_and_an_example(desk: Desk) -> None:
    """The largest first; a line a group where no terminal is, JSON for scripts."""
    now = datetime.now(UTC)
    for n in range(3):
        desk.fails(PAYMENT, controls.paid(), place="amount", now=now - timedelta(hours=3 - n), detail=f"amount: text {n}")
    [alone] = desk.fails(ASSEMBLY, controls.paid(), reason="out_of_retries", code="bug", place="KeyError main.py:9")
    first, second = desk.dlq("groups", "--json").json()
    assert (first["consumer"], first["error_code"], first["place"], first["letters"]) == (PAYMENT, "invalid_event", "amount", 3)
    assert 10_790 < first["oldest_seconds"] < 10_900
    assert first["error_message"] == "amount: text 2"
    assert (second["example"], second["reason"]) == (alone, "out_of_retries")
    ran = desk.dlq("groups")
    header, *lines = (line.split("\t") for line in ran.out.splitlines())
    assert header[:5] == ["consumer", "cause", "why", "code", "place"]
    assert [line[header.index("letters")] for line in lines] == ["3", "1"]
    assert lines[0][header.index("oldest")] == "3 h"
    assert "4 letters of 2 causes" in ran.err
    assert len(desk.dlq("groups", "--consumer", ASSEMBLY, "--json").json()) == 1


def test_list_filters_by_everything_that_a_letter_has(desk: Desk) -> None:
    """Each filter alone finds its letter and no other."""
    wanted = controls.paid()
    [one] = desk.fails(PAYMENT, wanted, code="telegram_text", now=EARLIER, reason="refused")
    desk.fails(ASSEMBLY, controls.paid(), reason="out_of_retries", code="bug")
    cause = desk.listed("--code", "telegram_text")[0]["fingerprint"]
    for filters in (
        ("--consumer", PAYMENT),
        ("--cause", cause),
        ("--group", cause[:6]),
        ("--code", "telegram_text"),
        ("--why", "refused"),
        ("--order", wanted["order_id"]),
        ("--event", wanted["event_id"]),
        ("--until", "2025-11-24T12:00:01Z"),
        ("--since", "2025-11-24T11:59:59+00:00", "--until", "2025-11-24T12:00:01"),
    ):
        assert [letter["letter_id"] for letter in desk.listed(*filters)] == [one], filters
    assert desk.listed("--state", "done") == []
    assert [letter["error_code"] for letter in desk.listed("--since", "2h")] == ["bug"]


def test_list_goes_through_all_letters_page_by_page(desk: Desk) -> None:
    """The newest first, each once, also those that failed at the same moment; a letter that comes meanwhile moves nothing."""
    desk.fails(ORDER, *(controls.assembled() for _ in range(7)), now=EARLIER)
    seen: list[str] = []
    cursor: str | None = None
    for page in range(4):
        ran = desk.dlq("list", "--json", "--max", "2", *(["--after", cursor] if cursor else [])).json()
        seen += [letter["letter_id"] for letter in ran["letters"]]
        cursor = ran["next"]
        if page == 1:
            desk.fails(ORDER, controls.assembled())
    assert cursor is None
    assert len(seen) == len(set(seen)) == 7
    told = desk.dlq("list", "--max", "2")
    assert "there are more: --after " in told.err
    assert len(told.out.splitlines()) == 3


def test_O11_the_state_words_say_no_more_than_is_known(desk: Desk) -> None:
    """Selected, sent, failed again, done: a letter that was only sent is never called done."""
    plain, selected, sent, again, done = desk.fails(ORDER, *(controls.assembled() for _ in range(5)))
    desk.dlq("sync")
    desk.database.run("INSERT INTO dlq_runs (run_id, kind, who) VALUES ('r', 'letters', 'me')")
    item = (
        "INSERT INTO dlq_run_items (run_id, n, letter_id, consumer, status, open) VALUES ('r', :n::int, :id, 'c', :status, :open::boolean)"
    )
    for n, (letter_id, status, is_open) in enumerate(
        [(selected, "selected", True), (sent, "sent", True), (again, "failed_again", False), (done, "done", False)]
    ):
        desk.database.run(item, n=n, id=letter_id, status=status, open=is_open)
    history = "INSERT INTO dlq_history (letter_id, what, who, run_id) VALUES (:id, :what, 'me', 'r')"
    desk.database.run(history, id=again, what="failed again")
    desk.database.run("UPDATE dlq_letters SET state = 'done' WHERE letter_id = :id", id=done)
    words = {letter["letter_id"]: letter["state"] for letter in desk.listed("--state", "all")}
    assert words == {plain: "open", selected: "selected", sent: "sent", again: "failed again", done: "done"}
    for state, letter_id in (("selected", selected), ("sent", sent), ("failed_again", again), ("done", done)):
        assert [letter["letter_id"] for letter in desk.listed("--state", state)] == [letter_id]
    states = desk.dlq("stats", "--json").json()["consumers"][ORDER]["states"]
    assert {word: count for word, count in states.items() if count} == dict.fromkeys(words.values(), 1)


def test_show_tells_all_of_a_letter(desk: Desk) -> None:
    """By the beginning of its id: the record decoded, where it lay, the error, its headers; as text and as JSON."""
    payload = controls.paid(user_id="ёж")
    [letter_id] = desk.fails(
        PAYMENT,
        payload,
        key=b"\x00k",
        headers=(("a", b"1"), ("a", None), ("b", b"\xff")),
        offset=77,
        detail="amount: is <b>wrong</b>",
        place="amount",
    )
    shown = desk.dlq("show", letter_id[:9], "--json").json()
    assert json.loads(shown["value"]["text"]) == payload
    assert shown["key"] == {"text": "\x00k", "base64": "AGs="}
    assert shown["headers"] == [
        {"name": "a", "text": "1", "base64": "MQ=="},
        {"name": "a", "text": None, "base64": None},
        {"name": "b", "text": None, "base64": "/w=="},
    ]
    assert (shown["message_offset"], shown["dlq_offset"], shown["error_status"], shown["state"]) == (77, 0, 422, "open")
    text = desk.dlq("show", letter_id).out
    for line in (
        f"letter:   {letter_id}",
        "record:   order.payment.completed[0]@77, 2026-11-18T11:06:40Z",
        "error:    amount: is <b>wrong</b>",
        "key:      \\x00k",
        "header:   a=(null)",
        "header:   b=\\xff",
        '  "user_id": "ёж"',
    ):
        assert line in text, text


@pytest.mark.parametrize("value", [b'{"a": 1}\n', b"\xff\x00\r\n", b"", b"\xe2\x82"])
def test_show_raw_writes_the_records_bytes_and_nothing_else(desk: Desk, value: bytes) -> None:
    """`| sha256sum` gives the sum of the record that was produced; notes go to standard error."""
    producer = Producer(stack.CLIENT | {"bootstrap.servers": desk.brokers})
    producer.produce(desk.topic(ORDER), b"no letter, so that there is something to say")
    assert producer.flush(stack.PATIENCE_S) == 0
    [letter_id] = desk.fails(ORDER, value)
    done = desk.alone("show", letter_id, "--raw")
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == hashlib.sha256(value).hexdigest()
    assert b"no letters" in done.stderr


def test_a_tombstone_is_shown_as_one(desk: Desk) -> None:
    """Nothing on standard output; a null value is told from an empty one."""
    [letter_id] = desk.fails(ORDER, None, key=b"k")
    ran = desk.dlq("show", letter_id, "--raw")
    assert (ran.code, ran.out) == (0, "")
    assert "tombstone" in ran.err
    assert desk.dlq("show", letter_id, "--json").json()["value"] is None
    assert "(null)" in desk.dlq("show", letter_id).out


def test_an_id_must_name_one_letter(desk: Desk) -> None:
    """Unknown: exit code 1. The beginning of several: 2, and they are named. The whole of one: that one."""
    one = desk.letter(ORDER, controls.assembled())
    desk.indexed(one)
    columns = "consumer, topic, reason, error_code, error_message, fingerprint, failed_at, last_failed_at, value"
    desk.database.run(
        f"INSERT INTO dlq_letters (letter_id, {columns}) SELECT letter_id || :more, {columns} FROM dlq_letters",
        more="0",
    )
    ran = desk.dlq("show", "zzz")
    assert (ran.code, ran.out) == (1, "")
    assert "there is no letter 'zzz'" in ran.err
    ran = desk.dlq("show", one.letter_id[:10])
    assert ran.code == 2
    assert f"{one.letter_id}, {one.letter_id}0" in ran.err
    assert desk.dlq("show", one.letter_id, "--json").json()["letter_id"] == one.letter_id
    assert desk.dlq("show", "").code == 1


def test_discard_and_restore_keep_who_and_why(desk: Desk) -> None:
    """Only what is in that state changes; what was not is named, with exit code 1."""
    first, second, third = desk.fails(ORDER, *(controls.assembled() for _ in range(3)))
    assert desk.dlq("discard", first, second[:12], "--reason", "test orders", "--yes", "--json").json() == {
        "discarded": sorted([first, second]),
        "left": [],
    }
    assert [letter["letter_id"] for letter in desk.listed()] == [third]
    ran = desk.dlq("discard", first, third, "--reason", "again", "--yes")
    assert (ran.code, first in ran.err, third in ran.err) == (1, True, False)
    assert desk.dlq("restore", first, "--reason", "a customer asked", "--yes").code == 0
    shown = desk.dlq("show", first, "--json").json()
    assert (shown["state"], shown["state_reason"]) == ("open", None)
    assert [(line["what"], line["detail"]) for line in shown["history"]] == [
        ("discarded", "test orders"),
        ("restored", "a customer asked"),
    ]
    assert all("@" in line["who"] for line in shown["history"])


def test_discard_by_a_filter_takes_what_was_asked_about(desk: Desk) -> None:
    """A cause, or everything; letters that an open run has are left alone."""
    desk.fails(ORDER, *(controls.assembled() for _ in range(3)), code="bug", place="KeyError main.py:1")
    other, busy = desk.fails(ORDER, controls.assembled(), controls.assembled(), code="other")
    desk.dlq("sync")
    desk.database.run("INSERT INTO dlq_runs (run_id, kind, who) VALUES ('r', 'letters', 'me')")
    desk.database.run("INSERT INTO dlq_run_items (run_id, n, letter_id, consumer) VALUES ('r', 1, :id, 'c')", id=busy)
    assert len(desk.dlq("discard", "--code", "bug", "--reason", "old", "--yes", "--json").json()["discarded"]) == 3
    assert desk.dlq("discard", "--all", "--reason", "old", "--yes", "--json").json() == {"discarded": [other], "left": []}
    ran = desk.dlq("discard", busy, "--reason", "old", "--yes")
    assert (ran.code, "in an open run" in ran.err) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("discard", "--reason", "x", "--yes"),
        ("discard", "some-id", "--all", "--reason", "x", "--yes"),
        ("discard", "some-id", "--yes"),
        ("discard", "some-id", "--reason", "  ", "--yes"),
        ("list", "--since", "yesterday"),
        ("list", "--after", "nowhere"),
        ("list", "--state", "processed"),
        ("edit", "some-id", "--set", "a=1", "--file", "-"),
        ("show",),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_says_why(desk: Desk, arguments: tuple[str, ...]) -> None:
    """Before anything is looked at or changed."""
    ran = desk.dlq(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err


def test_nothing_is_changed_without_yes_where_nobody_can_answer(desk: Desk) -> None:
    """Exit code 2, and every letter is as it was."""
    [letter_id] = desk.fails(ORDER, controls.assembled())
    for arguments in (
        ("discard", letter_id, "--reason", "x"),
        ("edit", letter_id, "--set", "user_id=user-8"),
    ):
        ran = desk.dlq(*arguments)
        assert (ran.code, "--yes" in ran.err) == (2, True)
    assert [(letter["letter_id"], letter["state"]) for letter in desk.listed("--state", "all")] == [(letter_id, "open")]


def test_stats_count_by_consumer_and_state(desk: Desk) -> None:
    """With the age of the oldest open letter, the parked events, and how far the topics were read."""
    desk.fails(PAYMENT, controls.paid(), now=datetime.now(UTC) - timedelta(days=2))
    desk.fails(PAYMENT, controls.paid())
    desk.database.run(
        "INSERT INTO parked_events (consumer, letter_key, event_id, event_type, order_id, occurred_at, payload)"
        " VALUES (:consumer, 'k', 'e', 't', 'k', now(), '')",
        consumer=PAYMENT,
    )
    told = desk.dlq("stats", "--json").json()
    mine = told["consumers"][PAYMENT]
    assert (mine["letters"], mine["states"]["open"], mine["parked"]) == (2, 2, 1)
    assert 172_700 < mine["oldest_open_seconds"] < 173_100
    assert {"topic": desk.topic(PAYMENT), "partition": 0, "next_offset": 2} in told["read"]
    header, line = (row.split("\t") for row in desk.dlq("stats").out.splitlines())
    assert (line[header.index("open")], line[header.index("oldest open")]) == ("2", "2 d")


def test_tail_shows_new_letters_only_and_ends_cleanly_on_ctrl_c(desk: Desk, start_process: conftest.StartProcess) -> None:
    """What was there before is not shown; Ctrl-C: exit code 0, no stack trace."""
    old = desk.fails(ORDER, controls.assembled())
    process = start_process(stack.orderflow("dlq", "tail", "--json"), desk.env)
    stack.eventually(lambda: "waiting for new letters" in process.text, "the tail to begin")
    new = desk.letter(ORDER, controls.assembled())
    desk.write(ORDER, new, new)
    stack.eventually(lambda: new.letter_id in process.text, "the new letter")
    other = desk.fails(PAYMENT, controls.paid())
    stack.eventually(lambda: other[0] in process.text, "the other letter")
    assert process.stop(signal.SIGINT) == 0
    assert process.text.count(new.letter_id) == 1
    assert old[0] not in process.text
    assert "Traceback" not in process.text


def test_tail_of_one_consumer_ends_after_max(desk: Desk, start_process: conftest.StartProcess) -> None:
    """Other consumers' letters do not count."""
    process = start_process(stack.orderflow("dlq", "tail", "--consumer", PAYMENT, "--max", "1"), desk.env)
    stack.eventually(lambda: "waiting for new letters" in process.text, "the tail to begin")
    [other] = desk.fails(ORDER, controls.assembled())
    [wanted] = desk.fails(PAYMENT, controls.paid(order_id="o\u202e7"))
    assert process.wait() == 0
    assert wanted in process.text
    assert other not in process.text
    assert "\u202e" not in process.text


def test_without_the_database_a_command_says_so(desk: Desk, unused: str) -> None:
    """One sentence, exit code 1."""
    desk.env["ORDER_POSTGRES_DSN"] = f"postgresql://order_user:secret@{unused}/orders"
    ran = desk.dlq("list")
    assert (ran.code, ran.out) == (1, "")
    assert "cannot connect to" in ran.err
    assert "secret" not in ran.err

"""Which rows a claim takes, and which it leaves to others or for later."""

import subprocess
from collections.abc import Callable

from connectors.outbox_relay import rows
from ops import child, postgres
from shared import config, database
from tests import stack
from tests.conftest import MakeTopic
from tests.relay import conftest
from tests.relay.conftest import Outbox, StartRelay


def _claims(rows_max: int = 100, bytes_max: int = 1 << 20) -> rows.Claims:
    return rows.Claims(rows_max=rows_max, bytes_max=bytes_max, workers=1)


def _taken(outbox: Outbox, claims: rows.Claims, after: rows.Position = rows.START) -> rows.Claim:
    """What a relay with the relay's own rights would get now; its locks are given back."""
    relay = database.Database(outbox.made.dsn("orderflow_relay"), settings=config.Settings(), application="test")
    try:
        return relay.transact(lambda tx: claims.take(tx, after, []))
    finally:
        relay.close()


def _ids(claim: rows.Claim) -> list[list[str]]:
    return [[row.event_id for row in line] for line in claim.lines]


def test_L10_a_row_that_commits_late_is_not_passed_over(
    outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    """A transaction that took an earlier sequence number and commits after a later one was published: both are sent."""
    topic = make_topic()
    start_relay(outbox.made, kafka_brokers)
    early = f"""INSERT INTO order_outbox_events (event_id, event_type, occurred_at, aggregate_id, payload, topic, headers, producer)
                VALUES ('early', 'test', now(), 'o', '{{}}', '{topic}', '{{"ce_id": "early"}}', 'test')"""
    with outbox.transaction(early):
        later = outbox.add(topic)
        outbox.until(later)
    outbox.until("early")
    seqs = outbox.made.run("SELECT event_id FROM order_outbox_events ORDER BY seq")
    assert seqs == [["early"], [later]]


def test_O02_an_older_row_that_commits_late_waits_for_the_one_in_flight(outbox: Outbox) -> None:
    """While a key's row is in flight, an older one of that key that appears is not claimed by anybody; afterwards it is."""
    in_flight = outbox.add("t", b"key")
    relay = database.Database(outbox.made.dsn("orderflow_relay"), settings=config.Settings(), application="test")

    def fly(tx: database.Transaction) -> str:
        assert _ids(_claims().take(tx, rows.START, [])) == [[in_flight]]
        older = outbox.add("t", b"key", due_in_s=-60)
        assert _ids(_taken(outbox, _claims())) == []
        other = outbox.add("t", b"other key")
        assert _ids(_taken(outbox, _claims())) == [[other]]
        return older

    older = relay.transact(fly)
    relay.close()
    assert [older, in_flight] in _ids(_taken(outbox, _claims()))


def test_a_key_is_claimed_without_a_gap(outbox: Outbox) -> None:
    """A run of a key's rows ends before one that another holds, or that was set aside; a held head holds up all."""
    ids = [outbox.add("t", b"key") for _ in range(4)]
    with outbox.transaction(f"SELECT 1 FROM order_outbox_events WHERE event_id = '{ids[2]}' FOR UPDATE"):
        assert _ids(_taken(outbox, _claims())) == [ids[:2]]
    outbox.made.run("UPDATE order_outbox_events SET status = 'failed' WHERE event_id = :id", id=ids[1])
    assert _ids(_taken(outbox, _claims())) == [ids[:1]]
    with outbox.transaction(f"SELECT 1 FROM order_outbox_events WHERE event_id = '{ids[0]}' FOR UPDATE"):
        assert _ids(_taken(outbox, _claims())) == []


def test_the_same_key_on_two_topics_is_two_keys(outbox: Outbox) -> None:
    """Order is per topic and key; rows without a key have none."""
    one, two = outbox.add("t", b"key"), outbox.add("u", b"key")
    free = [outbox.add("t", None), outbox.add("t", None)]
    assert sorted(_ids(_taken(outbox, _claims()))) == sorted([[one], [two], [free[0]], [free[1]]])


def test_a_claim_is_bounded_in_bytes(outbox: Outbox) -> None:
    """Large payloads are taken a few at a time, and always at least one."""
    for n in range(5):
        outbox.add("t", str(n).encode(), b"x" * 400_000)
    assert len(_taken(outbox, _claims(bytes_max=1_000_000)).lines) == 2
    assert len(_taken(outbox, _claims(bytes_max=1024)).lines) == 1


def test_blocked_rows_are_walked_past(outbox: Outbox) -> None:
    """Thousands of rows behind one that was set aside do not hide what comes after them, and a walk ends."""
    outbox.add_many("t", keys=1, of_each=3000)
    outbox.made.run("UPDATE order_outbox_events SET status = 'failed' WHERE event_id = '1/1'")
    free = outbox.add("t", b"free")
    claims, position, found = _claims(rows_max=50), rows.START, []
    for _ in range(3000 // (50 * rows.WINDOW_FACTOR) + 1):
        claim = _taken(outbox, claims, position)
        found += _ids(claim)
        if claim.beyond is None:
            break
        position = claim.beyond
    assert found == [[free]]
    assert claim.beyond is None


def test_L12_a_hint_before_a_slow_commit_loses_nothing(
    outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    """A relay that looks while the row's transaction is still open finds nothing, and the row is sent once it is there."""
    topic = make_topic()
    start_relay(outbox.made, kafka_brokers)
    slow = f"""INSERT INTO order_outbox_events (event_id, event_type, occurred_at, aggregate_id, payload, topic, producer, headers)
               VALUES ('slow', 'test', now(), 'o', '{{}}', '{topic}', 'test', '{{"ce_id": "slow"}}')"""
    with outbox.transaction(slow):
        outbox.made.run("NOTIFY order_outbox_events")
        outbox.until(outbox.add(topic))
        assert outbox.made.run("SELECT 1 FROM order_outbox_events WHERE event_id = 'slow'") == []
    outbox.until("slow")
    assert "slow" in conftest.ids(conftest.records(kafka_brokers, topic, 2))


def test_L11_a_dumped_outbox_goes_on_in_a_new_cluster(
    outbox: Outbox,
    private_postgres: Callable[..., stack.PostgresServer],
    start_relay: StartRelay,
    kafka_brokers: str,
    make_topic: MakeTopic,
) -> None:
    """pg_dump, restored into another cluster: what was sent stays sent, what waited is sent, and new rows come after."""
    topic = make_topic()
    relay = start_relay(outbox.made, kafka_brokers)
    outbox.until(outbox.add(topic, b"key", b"1"))
    assert relay.stop() == 0
    waiting = outbox.add(topic, b"key", b"2")

    restored = Outbox(private_postgres().new_database())
    dump = [str(postgres.programs() / "pg_dump"), "--clean", "--if-exists", "-d", outbox.made.dsn()]
    restore = [str(postgres.programs() / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", restored.made.dsn()]
    sql = subprocess.run(dump, check=True, capture_output=True, env=child.environment()).stdout
    subprocess.run(restore, check=True, capture_output=True, input=sql, env=child.environment())

    new = restored.add(topic, b"key", b"3")
    start_relay(restored.made, kafka_brokers)
    restored.until_sent(3)
    found = conftest.records(kafka_brokers, topic, 3)
    assert [message.value() for message in found] == [b"1", b"2", b"3"]
    assert conftest.ids(found)[1:] == [waiting, new]


def test_a_look_goes_on_where_it_ended_in_time(outbox: Outbox) -> None:
    """Where all rows wait behind a failed one, the next look goes on after the last that was looked at: by time, whatever its text is."""
    for _ in range(11):
        outbox.add("t", b"key")
    first = "(SELECT min(seq) FROM order_outbox_events)"
    outbox.made.run(
        f"UPDATE order_outbox_events SET due_at = make_timestamptz((seq - {first})::int - 100, 1, 1, 0, 0, 0, 'UTC')"
    )  # 100 BC …
    outbox.made.run(f"UPDATE order_outbox_events SET status = 'failed' WHERE seq = {first}")
    seqs = [row[0] for row in outbox.made.run("SELECT seq FROM order_outbox_events ORDER BY due_at")]
    claim = _taken(outbox, _claims(rows_max=1))
    assert claim.lines == []
    assert claim.beyond is not None
    assert seqs[rows.WINDOW_FACTOR] == claim.beyond.seq

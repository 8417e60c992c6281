"""A hundred thousand letters: listed, grouped, marked, and read from their topics, in bounded memory."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Producer

from ops import child, home
from tests import controls, stack
from tests.dlq.desk import ORDER, Desk

LETTERS = 100_000
READ = 10_000
MEMORY_BYTES_MAX = 300 << 20
# VmHWM begins anew with the program; ru_maxrss would still count the test run that started it.
MEASURED = """
import re, sys
from pathlib import Path
from ops import command
try:
    command.main()
finally:
    sys.stderr.write("\\npeak " + re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1] + "\\n")
"""
FILLED = """
INSERT INTO dlq_letters (letter_id, consumer, topic, partition, message_offset, event_id, event_type, order_id, letter_key, reason,
                         error_code, error_message, place, fingerprint, attempts, failed_at, last_failed_at, value)
SELECT 'letter-' || n, 'consumer-' || n % 4, 'order.assembly.completed', n % 8, n, 'event-' || n, 'order.assembly.completed',
       'order-' || n % 30000, 'order-' || n % 30000, 'refused', 'code_' || n % 10, 'text ' || n || repeat('x', 300), 'place',
       md5((n % 4 || '/' || n % 10)::text), 1, now() - n * interval '1 second', now() - n * interval '1 second', decode(:value::text, 'hex')
FROM generate_series(1, :many::integer) AS n
"""


def measured(desk: Desk, *arguments: str) -> tuple[Any, int]:
    """What `orderflow dlq …` prints as JSON, and the most memory that it had, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "dlq", *arguments, "--json"],
        capture_output=True, check=False, cwd=home.CHECKOUT, env=child.environment(**desk.env),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    peak = re.search(rb"peak (\d+)", done.stderr)
    assert peak is not None
    return json.loads(done.stdout), int(peak[1]) * 1024


def test_a_hundred_thousand_letters_are_grouped_listed_and_discarded_in_bounded_memory(desk: Desk) -> None:
    """Though their values alone are 100 MB; every page of the list is quick to come by."""
    desk.database.run(FILLED, many=LETTERS // 2, value=(b"v" * 1000).hex())
    desk.database.run(
        FILLED.replace("'letter-' || n", "'more-' || n").replace("n * interval", "(n + 50000) * interval"),
        many=LETTERS // 2,
        value=(b"v" * 1000).hex(),
    )
    groups, peak = measured(desk, "groups")
    assert (sum(group["letters"] for group in groups), len(groups)) == (LETTERS, 20)
    assert peak < MEMORY_BYTES_MAX
    page, peak = measured(desk, "list", "--max", "10000", "--after", _cursor(desk, 80_000))
    assert len(page["letters"]) == 10_000
    assert page["next"]
    assert peak < MEMORY_BYTES_MAX
    stats, peak = measured(desk, "stats")
    assert sum(consumer["states"]["open"] for consumer in stats["consumers"].values()) == LETTERS
    assert peak < MEMORY_BYTES_MAX
    discarded, peak = measured(desk, "discard", "--consumer", "consumer-1", "--reason", "a test", "--yes")
    assert len(discarded["discarded"]) == LETTERS // 4
    assert peak < MEMORY_BYTES_MAX


def test_ten_thousand_letters_are_read_from_their_topic_in_bounded_memory(desk: Desk) -> None:
    """By one command; read again they change nothing."""
    value = json.loads(desk.letter(ORDER, controls.assembled(user_id="u" * 128)).value)
    producer = Producer(stack.CLIENT | {"bootstrap.servers": desk.brokers, "linger.ms": 20, "queue.buffering.max.messages": READ + 1})
    moment = datetime.now(UTC).isoformat()
    for n in range(READ):
        letter = value | {"letter_id": f"letter-{n}", "failed_at": moment, "original_offset": n, "error_message": "x" * 1000}
        producer.produce(desk.topic(ORDER), json.dumps(letter).encode())
    assert producer.flush(stack.PATIENCE_S) == 0
    told, peak = measured(desk, "sync")
    assert (told["read"], told["added"]) == (READ, READ)
    assert peak < MEMORY_BYTES_MAX
    again, _ = measured(desk, "sync", "--rebuild")
    assert (again["read"], again["added"]) == (READ, 0)
    assert desk.database.run("SELECT count(*), max(times) FROM dlq_letters") == [[READ, 1]]


def _cursor(desk: Desk, place: int) -> str:
    """Where the page after the newest `place` letters begins."""
    rows = desk.database.run(
        "SELECT failed_at, letter_id FROM dlq_letters ORDER BY failed_at DESC, letter_id DESC OFFSET :n LIMIT 1", n=place
    )
    return f"{rows[0][0].isoformat()}/{rows[0][1]}"

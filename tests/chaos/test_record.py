"""The record of a run holds what was begun, whatever became of the process that wrote it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from chaos import record
from ops import child

_WRITES = """
import os, pathlib, signal, sys
from chaos import record
journal = record.Journal(pathlib.Path(sys.argv[1]), {"seed": 7})
order = journal.begin(record.Sent, kind="order", user_id="u-1", idempotency_key="k-1")
journal.end(order, answered=True, order_id="o-1", status=201, tries=2)
journal.begin(record.Sent, kind="poison", topic="t", key="k", groups=("a", "b"), note="tombstone")
journal.begin(record.Fault, kind="kill", target="notify", pid=12)
journal.begin(record.Telegram, text="Order o-1 is paid\\nUser: u-1\\nTime: now", fault="late")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_all_that_it_had_begun(tmp_path: Path) -> None:
    process = subprocess.run(child.guarded([sys.executable, "-c", _WRITES, str(tmp_path)]), check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    found = record.read(tmp_path)
    assert found.about == {"seed": 7}
    order, poison = found.sent
    assert (order.n, order.kind, order.idempotency_key) == (1, "order", "k-1")
    assert (order.answered, order.order_id, order.status, order.tries) == (True, "o-1", 201, 2)
    assert (poison.n, poison.groups, poison.note, poison.answered) == (2, ("a", "b"), "tombstone", False)
    (fault,) = found.faults
    assert (fault.kind, fault.target, fault.pid, fault.done) == ("kill", "notify", 12, False)
    (message,) = found.telegrams
    assert (message.order_id, message.what, message.user_id, message.fault) == ("o-1", "paid", "u-1", "late")


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    with record.Journal(tmp_path, {}) as journal:
        journal.begin(record.Sent, kind="order")
        journal.begin(record.Sent, kind="order")
    file = tmp_path / record.FILE
    file.write_bytes(file.read_bytes()[:-9])
    assert [sent.n for sent in record.read(tmp_path).sent] == [1]


def test_every_line_stands_alone(tmp_path: Path) -> None:
    with record.Journal(tmp_path, {"seed": 1}) as journal:
        sent = journal.begin(record.Sent, kind="event", note="a line\nand another \ud800")
        journal.end(sent, answered=True)
    lines = (tmp_path / record.FILE).read_bytes().splitlines()
    assert [json.loads(line)["is"] for line in lines] == ["run", "sent", "became"]
    assert record.read(tmp_path).sent[0].note == "a line\nand another \ud800"

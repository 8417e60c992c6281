"""docs/add-a-consumer.md, done as it says, block by block, in a copy of the checkout: nothing else has to be touched, and it works."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ops import child, home, postgres
from ops.deployments import rendering
from ops.tail import tail
from shared import config, database, errors
from tests import stack
from tests.e2e import checkouts
from tests.e2e.system import PAID, System

PAGE = (home.CHECKOUT / "docs" / "add-a-consumer.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.timeout(240)  # a system is started for each, on a machine that may be busy
BLOCK = re.compile(r'^```\w+(?: title="(?P<file>[^"]+)")?(?: before="(?P<before>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
TOPICS, SOURCES = "contracts/topics.yaml", "infra/knative/sources.yaml"


@dataclass(frozen=True)
class Block:
    """A block of the page: a file, or what is added to it; without a file, commands."""

    file: str | None
    before: str | None
    text: str


class Reader:
    """Somebody who does what a part of the page says, in a checkout of their own."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self._home = folder / "checkout", folder / "system"
        self.system: System | None = None
        checkouts.copied(self.checkout)
        (self.checkout / ".venv").symlink_to(sys.prefix)
        self._git("init", "--quiet")
        (self.checkout / ".git" / "info" / "exclude").write_text(".venv\n", encoding="utf-8")
        self.commit()

    def commit(self) -> None:
        """Take all there is as the state before."""
        self._git("add", "--all")
        self._git("-c", "user.name=reader", "-c", "user.email=reader@localhost", "commit", "--quiet", "--message", "before")

    def changed(self) -> set[str]:
        """Every file that is not as before."""
        return {line[3:] for line in self._git("status", "--porcelain", "--untracked-files=all").splitlines()}

    def removed(self) -> int:
        """How many lines of files that were there are gone, but for those that are made."""
        made = [f":!{path}" for path in rendering.FILES]
        return sum(int(line.split("\t")[1]) for line in self._git("diff", "--numstat", "--", ".", *made).splitlines())

    def write(self, block: Block) -> None:
        """Do what a block with a file's name says."""
        assert block.file is not None
        path = self.checkout / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.read_text(encoding="utf-8") if path.is_file() else ""
        if block.before is None:
            path.write_text(there + block.text, encoding="utf-8")
            return
        assert there.count(f"\n{block.before}") == 1, block.before
        gap = "\n\n" if path.suffix == ".py" else ""  # which an editor, or `make format`, puts there
        path.write_text(there.replace(f"\n{block.before}", f"\n{block.text}{gap}{block.before}"), encoding="utf-8")

    def run(self, block: Block) -> str:
        """Run its commands; what they print. `make run` is the system of this test, on ports of its own."""
        said = ""
        for line in block.text.splitlines():
            if line == "make run":
                self._start()
                continue
            own = line.replace("http://127.0.0.1:8080", self._url)
            said += _run(["bash", "-euo", "pipefail", "-c", own], self.checkout, **self._environment())
        return said

    def stop(self) -> None:
        """End the system."""
        if self.system is not None:
            self.system.close()
            self.system.up.process.stop(signal.SIGINT)

    def as_role(self, role: str, sql: str) -> list[list[Any]]:
        """What a role gets for one statement."""
        assert self.system is not None
        dsn = postgres.dsn(self.system.up.ports.postgres, role, f"{role}_password")
        own = database.Database(dsn, settings=config.Settings(), application="test")
        try:
            return own.transact(lambda tx: tx.run(sql))
        finally:
            own.close()

    def letters(self, topic: str) -> list[tuple[str, str]]:
        """The consumer and the error code of each letter on `topic`."""
        assert self.system is not None
        with tail(self.system.settings, [topic], beginning=True) as records:
            records.read(within_s=1)
            found = [json.loads(message.value() or b"{}") for message in records.records]
        return [(letter["consumer"], letter["error_code"]) for letter in found]

    def _start(self) -> None:
        env = {"ASSEMBLY_DURATION": "1s", "LOG_FORMAT": "json", "PYTHONPATH": str(self.checkout)}
        up = stack.Up(self._home, env, checkout=self.checkout)
        self.system = System(up)
        up.wait_ready()

    def _environment(self) -> dict[str, str]:
        known = {"PYTHONPATH": str(self.checkout)}
        if self.system is not None:
            told = self.system.up.told
            known |= {"ORDERFLOW_HOME": str(self.system.up.home), "KAFKA_BROKERS": told["kafka"]["brokers"]}
            known |= {"ORDER_POSTGRES_DSN": told["postgres"]["dsn"]}
        return known

    @property
    def _url(self) -> str:
        return self.system.orders.removesuffix("/orders") if self.system else ""

    def _git(self, *arguments: str) -> str:
        return _run(["git", *arguments], self.checkout)


def _run(command: list[str], folder: Path, **env: str) -> str:
    done = subprocess.run(command, cwd=folder, env=child.environment(**env), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _blocks(heading: str) -> list[Block]:
    """The blocks of one part of the page."""
    part = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    text = next(text for text in part if text.startswith(heading))
    return [Block(found["file"], found["before"], found["text"]) for found in BLOCK.finditer(text)]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody with a fresh checkout."""
    one = Reader(tmp_path)
    try:
        yield one
    finally:
        one.stop()


def test_a_third_consumer_is_one_folder_one_row_and_one_source_and_nothing_else(reader: Reader) -> None:
    blocks = _blocks("A consumer of a topic that is there")
    files, (check, start, send, look) = [block for block in blocks if block.file], [block for block in blocks if not block.file]

    for block in files:
        reader.write(block)
    reader.run(check)

    by_hand = {"functions/review_on_payment/main.py", TOPICS, SOURCES}
    assert by_hand == {block.file for block in files}
    assert by_hand == reader.changed() - rendering.FILES.keys()
    assert {"stack.yml", "contracts/asyncapi.yaml"} <= reader.changed()
    assert reader.removed() == 0
    _run([".venv/bin/ruff", "check", "functions/review_on_payment"], reader.checkout)
    _run([".venv/bin/ruff", "format", "--check", "functions/review_on_payment"], reader.checkout)

    reader.run(start)
    system = reader.system
    assert system is not None
    order = json.loads(reader.run(send).splitlines()[0])["id"]

    def reports() -> list[str]:
        return [line["order_id"] for line in system.log("review_on_payment") if line["message"] == "review: a large order"]

    stack.eventually(lambda: reports() == [order], "the report")
    stack.eventually(lambda: reader.letters("order.review.dlq") == [("review-service", "unreadable")], "the letter")
    assert "unreadable" in reader.run(look)

    (event,) = _events(system, order)
    system.produce(PAID, event, key=order.encode(), times=3)
    system.wait_idle()
    assert reports() == [order]
    assert [[order, "sent"]] == reader.as_role("orderflow_review", "SELECT order_id, status FROM review_inbox_events")
    for refused in ("SELECT * FROM orders", "SELECT * FROM notification_inbox_events", "UPDATE removal_walks SET table_name = 'x'"):
        with pytest.raises(errors.Unavailable, match="permission denied"):
            reader.as_role("orderflow_review", refused)


def test_a_new_topic_takes_its_event_and_a_migration_more(reader: Reader) -> None:
    blocks = _blocks("A new topic, with a new event")
    files, (run, send) = [block for block in blocks if block.file], [block for block in blocks if not block.file]

    for block in files:
        reader.write(block)
    reader.run(run)

    own = {"functions/ship_on_reserved/main.py", "infra/migrations/versions/0004_shipments.py", "shared/events.py", TOPICS, SOURCES}
    assert own == {block.file for block in files}
    assert own == reader.changed() - rendering.FILES.keys() - {"contracts/schemas/inventory.reserved.json"}
    assert reader.removed() == 0
    _run([".venv/bin/ruff", "check", *sorted(path for path in own if path.endswith(".py"))], reader.checkout)
    _run([".venv/bin/ruff", "format", "--check", *sorted(path for path in own if path.endswith(".py"))], reader.checkout)

    system = reader.system
    assert system is not None
    reader.run(send)
    stack.eventually(lambda: system.run("SELECT order_id, warehouse FROM shipments") == [["order-1", "north"]], "the shipment")
    stack.eventually(lambda: reader.letters("inventory.reserved.dlq") == [("shipping-service", "invalid_event")], "the letter")
    assert [["order-1"]] == reader.as_role("orderflow_shipping", "SELECT order_id FROM shipping_inbox_events")
    for refused in ("SELECT warehouse FROM shipments", "SELECT * FROM orders", "UPDATE shipping_inbox_events SET order_id = 'x'"):
        with pytest.raises(errors.Unavailable, match="permission denied"):
            reader.as_role("orderflow_shipping", refused)


def _events(system: System, order: str) -> list[bytes]:
    with tail(system.settings, [PAID], beginning=True) as records:
        records.read(within_s=1)
        return [message.value() or b"" for message in records.records if message.key() == order.encode()]

"""docs/upgrades.md under load: expand, a new version of every process, back, and forth again, contract. Nothing is lost or refused."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ops import child, home
from shared import config, schema
from shared.database import Database
from tests import controls, stack
from tests.conftest import MakeTopic
from tests.e2e import checkouts
from tests.e2e.fleet import RELAY, SOURCE, Fleet
from tests.e2e.load import Load
from tests.e2e.system import ASSEMBLED, LETTERS, PAID

pytestmark = pytest.mark.timeout(400)  # three rounds of new processes, on a machine that may be busy

NEWEST = max(path.name[:4] for path in (home.CHECKOUT / "infra" / "migrations" / "versions").glob("0*.py"))
EXPANDS, FILLS, HOLDS = (f"{int(NEWEST) + n:04}" for n in (1, 2, 3))
_HEAD = """'{doc}'
from alembic import op
revision, down_revision, branch_labels, depends_on = "{revision}", "{before}", None, None
"""
EXPAND = (
    _HEAD.format(doc="Where an order came from.", revision=EXPANDS, before=NEWEST)
    + """

def upgrade() -> None:
    op.get_bind().exec_driver_sql("ALTER TABLE orders ADD COLUMN channel text")
"""
)
# Two steps: one transaction would keep everybody away from the table while it is looked through.
FILL = (
    _HEAD.format(doc="Every order says where it came from.", revision=FILLS, before=EXPANDS)
    + f'''contract = "{EXPANDS}"


def backfill(connection) -> int:
    return connection.exec_driver_sql(
        "UPDATE orders SET channel = 'unknown' WHERE id IN (SELECT id FROM orders WHERE channel IS NULL LIMIT 50)"
    ).rowcount


def upgrade() -> None:
    op.get_bind().exec_driver_sql("ALTER TABLE orders ADD CONSTRAINT channel_known CHECK (channel IS NOT NULL) NOT VALID")
'''
)
HOLD = (
    _HEAD.format(doc="An order without it is none.", revision=HOLDS, before=FILLS)
    + f'''contract = "{EXPANDS}"


def upgrade() -> None:
    run = op.get_bind().exec_driver_sql
    run("ALTER TABLE orders VALIDATE CONSTRAINT channel_known")
    run("ALTER TABLE orders ALTER COLUMN channel SET NOT NULL")
    run("ALTER TABLE orders DROP CONSTRAINT channel_known")
'''
)


@pytest.fixture
def new_version(tmp_path: Path) -> Path:
    """The next version: a column, and an optional field of an event, that the present one does not know."""
    checkout = checkouts.copied(tmp_path / "checkout")
    _migration(checkout, EXPANDS, EXPAND)
    checkouts.swap(checkout / "shared/schema.py", f'NEEDS = "{schema.NEEDS}"', f'NEEDS = "{EXPANDS}"')
    checkouts.swap(checkout / "shared/events.py", "    payment_method: ", "    channel: str | None = None\n    payment_method: ")
    orders = checkout / "functions/orders"
    checkouts.swap(orders / "desk.py", "payment_method=PAYMENT_METHOD,", 'payment_method=PAYMENT_METHOD, channel="web",')
    checkouts.swap(orders / "store.py", "INTO orders (id, user_id, status)", "INTO orders (id, user_id, status, channel)")
    checkouts.swap(orders / "store.py", "u.user_id, 'paid' FROM", "u.user_id, 'paid', 'web' FROM")
    return checkout


@pytest.fixture
def fleet(tmp_path: Path, kafka_brokers: str, database: stack.TestDatabase, make_topic: MakeTopic) -> Iterator[Fleet]:
    """Every process, of the present version."""
    made = Fleet(tmp_path, kafka_brokers, database, make_topic, ASSEMBLY_DURATION="500ms")
    try:
        made.begin()
        yield made
    finally:
        made.close()


def test_every_process_is_replaced_under_load_and_nothing_is_lost_doubled_or_refused(
    fleet: Fleet, database: stack.TestDatabase, new_version: Path, kafka_brokers: str, tmp_path: Path
) -> None:
    load = Load(fleet.urls["orders"], kafka_brokers, fleet.topic(PAID))
    with load.running():
        load.goes_on()
        early = _too_early(fleet, new_version)
        _expand(load, database, new_version, tmp_path)
        early.wait_ready("/ready")

        fleet.replace("orders", new_version, early)  # the producer first: the others have to bear a field that they do not know
        for name in (*(name for name in fleet.functions if name != "orders"), RELAY, SOURCE):
            fleet.replace(name, new_version)
        load.goes_on()

        for name in ("orders", "assembly_on_payment", RELAY):
            fleet.replace(name, home.CHECKOUT)
        load.goes_on()
        for name in ("orders", "assembly_on_payment", RELAY):
            fleet.replace(name, new_version)

        _contract(load, database, new_version, tmp_path)
        _too_late(fleet)
        load.goes_on()
    stack.eventually(fleet.idle, "an empty outbox and no lag")
    assert load.refused == []
    _all_done_once(fleet, database, load)


def _migration(checkout: Path, revision: str, text: str) -> None:
    (checkout / "infra" / "migrations" / "versions" / f"{revision}_channel.py").write_text(text, encoding="utf-8")


def _too_early(fleet: Fleet, new_version: Path) -> stack.Process:
    """A new version before its migration says what is missing, to whoever asks; an event is not blamed."""
    orders, assembly = fleet.start("orders", new_version), fleet.start("assembly_on_payment", new_version)
    for process in (orders, assembly):
        process.wait_ready("/health")
        answer = httpx.get(f"{process.url}/ready", timeout=30)
        assert (503, "migration") == (answer.status_code, answer.json()["code"])
        assert f"is at migration {NEWEST}, and this version needs {EXPANDS}" in answer.json()["detail"]
        assert "do not go together" in process.text
    delivered = httpx.post(assembly.url, **controls.binary(controls.paid()), timeout=30)
    assert (503, "migration") == (delivered.status_code, delivered.json()["code"])
    assembly.kill()
    return orders


def _expand(load: Load, database: stack.TestDatabase, new_version: Path, folder: Path) -> None:
    """Two at once, while a long transaction has the table: both wait their turn without holding up anybody, and then it is done once."""
    reader = Database(database.dsn(), settings=config.Settings(), application="test")
    with reader.session() as long:
        long.run("BEGIN")
        long.run("SELECT count(*) FROM orders")
        both = [_migrate(database, new_version, folder / f"expand-{n}.log") for n in range(2)]

        def said() -> str:
            return "".join(one.text for one in both)

        stack.eventually(lambda: "so this one let go; tried again (2)" in said(), "it to try again")
        stack.eventually(lambda: "another migration of this database runs" in said(), "the other to wait for it")
        load.goes_on()
        assert all(one.alive() for one in both), said()
        long.run("COMMIT")
    reader.close()
    assert [0, 0] == [one.wait() for one in both], said()


def _contract(load: Load, database: stack.TestDatabase, new_version: Path, folder: Path) -> None:
    """What old versions need is taken away when that is asked for, and not before; in steps, so that nobody waits for all of it."""
    without = database.run("SELECT count(*) FILTER (WHERE channel IS NULL), count(*) FILTER (WHERE channel = 'web') FROM orders")
    assert min(without[0]) > 0, without
    _migration(new_version, FILLS, FILL)
    _migration(new_version, HOLDS, HOLD)
    waits = _migrate(database, new_version, folder / "contract-not-yet.log")
    assert waits.wait() == 0, waits.text
    assert (
        f"left for later in localhost:{database.port}/{database.name}: {FILLS} (Every order says where it came from), {HOLDS}" in waits.text
    )
    assert [[EXPANDS]] == database.run("SELECT version_num FROM alembic_version")

    done = _migrate(database, new_version, folder / "contract.log", "--contract")
    assert done.wait() == 0, done.text
    load.goes_on()
    assert [[HOLDS, "NO"]] == database.run(
        "SELECT version_num, is_nullable FROM alembic_version, information_schema.columns WHERE column_name = 'channel'"
    )


def _too_late(fleet: Fleet) -> None:
    """After that an old version is told so. It takes nothing, and spoils nothing."""
    old = fleet.start("orders")
    old.wait_ready("/health")
    answer = httpx.get(f"{old.url}/ready", timeout=30)
    assert (503, "migration") == (answer.status_code, answer.json()["code"])
    assert f"has given up what versions before migration {EXPANDS} need" in answer.json()["detail"]


def _all_done_once(fleet: Fleet, database: stack.TestDatabase, load: Load) -> None:
    orders = sorted(load.placed.values())
    assert [[order, "assembled"] for order in orders] == database.run('SELECT id, status FROM orders ORDER BY id COLLATE "C"')
    paid, assembled = fleet.records(PAID), fleet.records(ASSEMBLED)
    assert sorted([*orders, *load.written.values()]) == sorted(event["order_id"] for event in paid)
    assert sorted([*orders, *load.written.values()]) == sorted(event["order_id"] for event in assembled)
    assert {"web"} == {event["channel"] for event in paid if "channel" in event}
    assert {event["event_id"]: 1 for event in (*paid, *assembled)} == dict(fleet.announced())
    assert [] == fleet.records(*LETTERS)
    assert [[0]] == database.run("SELECT count(*) FROM dlq_letters")


def _migrate(database: stack.TestDatabase, checkout: Path, log: Path, *options: str) -> stack.Process:
    command = stack.orderflow("migrate", "--dsn", database.dsn(), *options)
    return stack.Process(child.guarded(command), {"PYTHONPATH": str(checkout)}, log, folder=checkout)

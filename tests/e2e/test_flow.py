"""The whole flow, from an order to its two messages, and what a poison record, a repeat and the command line do to it."""

import base64
import json
import uuid

import httpx
import psutil
import pytest

from ops import home
from ops.deployments import functions
from tests import stack
from tests.e2e.system import ASSEMBLED, PAID, System, groups


def test_an_order_is_paid_then_assembled_and_announced_twice(system: System) -> None:
    order = system.place(1)
    assert httpx.get(f"{system.orders}/{order}", timeout=30).json()["status"] in {"paid", "assembled"}
    stack.eventually(lambda: httpx.get(f"{system.orders}/{order}", timeout=30).json()["status"] == "assembled", "the order to be assembled")
    sent = "SELECT event_type FROM notification_inbox_events WHERE order_id = :id AND status = 'sent' ORDER BY event_type"
    stack.eventually(lambda: system.run(sent, id=order) == [[ASSEMBLED], [PAID]], "both messages")
    system.wait_idle()
    assert system.events(PAID)[order] == 1
    assert system.events(ASSEMBLED)[order] == 1


def test_a_plain_json_record_has_its_effects_once_and_ten_repeats_have_none(system: System) -> None:
    own = uuid.uuid4().hex
    event_id, order = f"payment-order-{own}", f"order-{own}"
    record = {
        "event_id": event_id,
        "event_type": PAID,
        "event_version": 1,
        "occurred_at": "2025-01-31T10:15:00Z",
        "order_id": order,
        "user_id": "user-1",
        "amount": 150_000,
        "payment_method": "card",
    }

    def effects() -> dict[str, int]:
        counts = {
            name: int(system.run(f"SELECT count(*) FROM {name} WHERE order_id = :order", order=order)[0][0])
            for name in ("assembly_inbox_events", "order_inbox_events", "notification_inbox_events")
        }
        ids = [row[0] for row in system.run("SELECT event_id FROM notification_inbox_events WHERE order_id = :order", order=order)]
        announced = system.announced()
        return counts | {"events": system.events(ASSEMBLED)[order], "messages": sum(announced[known] for known in ids)}

    wanted = {"assembly_inbox_events": 1, "order_inbox_events": 1, "notification_inbox_events": 2, "events": 1, "messages": 2}
    value = json.dumps(record).encode()
    system.produce(PAID, value, key=order.encode())
    stack.eventually(lambda: effects() == wanted, "its effects")
    system.produce(PAID, value, key=order.encode(), times=10)
    system.wait_idle()
    assert effects() == wanted


def test_a_poison_record_becomes_a_readable_letter_for_each_consumer_and_stops_nobody(system: System) -> None:
    value = b'{"event_id": "poison-' + uuid.uuid4().hex.encode() + b'", "order_id": '
    system.produce(PAID, value, key=b"poison")
    order = system.place(2)

    def letters() -> list[str]:
        found = [letter for letter in system.letters() if base64.b64decode(letter["original_value"] or "") == value]
        assert all(letter["original_topic"] == PAID and letter["error_message"] for letter in found)
        return sorted(letter["consumer"] for letter in found)

    stack.eventually(lambda: letters() == groups(PAID), "its letters")
    stack.eventually(lambda: httpx.get(f"{system.orders}/{order}", timeout=30).json()["status"] == "assembled", "the order behind it")
    system.wait_idle()


def test_the_demo_uses_the_system_that_runs_and_succeeds(system: System) -> None:
    done = system.up.command("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"using the system that runs already (process {system.up.process.pid})" in done.stderr
    assert "5 orders were paid, assembled and announced twice each" in done.stdout


def test_the_demo_fails_and_names_what_did_not_happen(system: System) -> None:
    sources = f"{system.up.told['source']['url']}/sources/notify-assembly"
    assert httpx.post(f"{sources}/pause", json={"reason": "a test"}, timeout=30).status_code == 200
    try:
        assert system.up.command("status").returncode == 1
        done = system.up.command("demo", "--patience", "10s")
        assert done.returncode == 1
        assert done.stderr.count(": not assembly announced") == 5
    finally:
        assert httpx.post(f"{sources}/resume", timeout=30).status_code == 200
    system.wait_idle()


def test_orders_placed_before_a_kill_9_of_broker_and_database_are_assembled_after_it(system: System) -> None:
    orders = [system.place(number) for number in range(3)]
    children = system.up.children()
    for name in ("kafka", "postgres"):
        children[name].kill()
    stack.eventually(lambda: {system.up.told[name].get("restarts") for name in ("kafka", "postgres")} == {1}, "both again")
    ready = "SELECT count(*) FROM orders WHERE id = ANY(:ids) AND status = 'assembled'"
    stack.eventually(lambda: system.run(ready, ids=orders) == [[3]], "assembled orders", 60)
    system.wait_idle()
    assert [system.events(ASSEMBLED)[order] >= 1 for order in orders] == [True] * 3


@pytest.mark.timeout(180)
def test_the_death_of_up_ends_every_process_it_started(tmp_path: object) -> None:
    up = stack.Up(tmp_path, {})  # type: ignore[arg-type]
    up.wait_ready()
    children = up.children()
    assert set(children) == {"kafka", "postgres", "source", "relay", *functions.here()}
    everything = [*children.values(), *psutil.Process(up.process.pid).children(recursive=True)]
    psutil.Process(up.process.pid).kill()
    _, left = psutil.wait_procs(everything, timeout=stack.PATIENCE_S)
    assert left == []
    assert up.command("status").returncode == 1
    # Its data are whole, and what the run file of the dead one says stops nobody.
    up.process.wait()
    up.process.start()
    up.wait_ready()
    again = [*up.children().values(), *psutil.Process(up.process.pid).children(recursive=True)]
    assert up.process.stop() == 0
    _, left = psutil.wait_procs(again, timeout=stack.PATIENCE_S)
    assert left == []
    assert not home.run_file(up.home).exists()

"""1,000 orders while the source, a function, the relay and notify are killed with -9."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests import stack
from tests.e2e.system import ASSEMBLED, PAID, System

ORDERS = 1000
IN_FLIGHT = 2 * 8  # of notify: eight requests of each of its two sources


def _kill(system: System, name: str) -> None:
    def restarts() -> int:
        told = system.up.told
        return int(told["functions"].get(name, told.get(name, {})).get("restarts", 0))

    before = restarts()
    process: psutil.Process = system.up.children()[name]
    process.kill()
    stack.eventually(lambda: restarts() > before, f"{name} again")


@pytest.mark.timeout(240)
def test_a_thousand_orders_survive_kill_9_of_everything_that_is_ours(system: System) -> None:
    before = {*system.announced()}
    letters = len(system.letters())
    rounds = ["source", "assembly_on_payment", "relay", "notify", "source", "order_on_assembled", "notify", "relay"]
    random.Random(7).shuffle(rounds)  # noqa: S311 - not a secret

    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(8) as threads:

        def place(number: int) -> str:
            body = {"user_id": f"user-{number}", "items": [{"product_id": "p", "quantity": 1}]}
            answer = client.post(system.orders, json=body)
            assert answer.status_code == 201, answer.text
            return str(answer.json()["id"])

        placed = [threads.submit(place, number) for number in range(ORDERS)]
        for name in rounds:
            time.sleep(0.3)  # let each come to some work, wherever in it that is
            _kill(system, name)
        ids = {future.result() for future in placed}
    assert len(ids) == ORDERS

    wanted = list(ids)
    assembled = "SELECT count(*) FROM orders WHERE id = ANY(:ids) AND status = 'assembled'"
    sent = "SELECT count(*) FROM notification_inbox_events WHERE order_id = ANY(:ids) AND status = 'sent'"
    stack.eventually(lambda: system.run(assembled, ids=wanted) == [[ORDERS]], "1,000 assembled orders", 90)
    stack.eventually(lambda: system.run(sent, ids=wanted) == [[2 * ORDERS]], "2,000 sent messages", 90)
    system.wait_idle()

    rows = system.run("SELECT event_id, event_type, attempts FROM notification_inbox_events WHERE order_id = ANY(:ids)", ids=wanted)
    assert Counter(row[1] for row in rows) == {PAID: ORDERS, ASSEMBLED: ORDERS}
    announced = Counter({event: times for event, times in system.announced().items() if event not in before})
    missing = {row[0] for row in rows} - announced.keys()
    assert missing == set()
    repeated = {event for event, times in announced.items() if times > 1}
    taken_over = {row[0] for row in rows if row[2] > 1}
    named = {str(line["event_id"]) for line in system.log("notify") if "no outcome of an earlier try" in str(line["message"])}
    assert repeated <= taken_over, "a message was repeated whose outcome was recorded"
    assert repeated <= named
    assert len(repeated) <= rounds.count("notify") * IN_FLIGHT

    assert len(system.letters()) == letters
    assert {name: of["lag"] for name, of in system.sources().items()} == dict.fromkeys(system.sources(), 0)
    counts = Counter({order: times for order, times in system.events(ASSEMBLED).items() if order in ids})
    assert counts.keys() == ids

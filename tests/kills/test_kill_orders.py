"""The orders API dies at each step of an order, and the client sends it again with the same Idempotency-Key."""

import httpx
import pytest

from tests import controls, stack
from tests.kills import mortal, points
from tests.kills.conftest import ServeMortal
from tests.kills.mortal import Mortal
from tests.kills.points import Point


@pytest.fixture(scope="module")
def orders(serve_mortal: ServeMortal, module_database: stack.TestDatabase) -> Mortal:
    return serve_mortal("orders", "orders", module_database.environment())


def place(orders: Mortal, user: str) -> httpx.Response | None:
    body = {"user_id": user, "items": [{"product_id": "a", "quantity": 2}, {"product_id": "b", "quantity": 1}]}
    return mortal.attempt(f"{orders.url}/orders", json=body, headers={"Idempotency-Key": f"key of {user}".replace(" ", "-")})


def rows(database: stack.TestDatabase, user: str) -> tuple[int, ...]:
    """Orders, items, staged events and keys of a user."""
    counts = """
    SELECT (SELECT count(*) FROM orders WHERE user_id = :user),
           (SELECT count(*) FROM order_items JOIN orders ON orders.id = order_id WHERE user_id = :user),
           (SELECT count(*) FROM order_outbox_events JOIN orders ON orders.id = aggregate_id WHERE user_id = :user),
           (SELECT count(*) FROM order_idempotency_keys WHERE user_id = :user)
    """
    return tuple(database.run(counts, user=user)[0])


NOTHING, ONE_ORDER = (0, 0, 0, 0), (1, 2, 1, 1)


@pytest.mark.parametrize("point", points.of("orders"), ids=points.id_of)
def test_an_order_that_is_sent_again_after_a_death_is_placed_once(
    orders: Mortal, module_database: stack.TestDatabase, point: Point
) -> None:
    user = controls.new_id("user-")
    if point.step.aside:
        orders.fresh()
    orders.order(point)
    answer = place(orders, user)
    orders.died(point)
    assert answer is None or point.may_have_answered
    assert rows(module_database, user) == {"again": NOTHING, "kept": ONE_ORDER}[point.left]

    orders.again()
    again = place(orders, user)
    assert again is not None
    assert again.status_code == 201
    assert again.headers.get("idempotency-replayed") == {"again": None, "kept": "true"}[point.left]
    assert rows(module_database, user) == ONE_ORDER
    assert module_database.run("SELECT id FROM orders WHERE user_id = :user", user=user) == [[again.json()["id"]]]


@pytest.mark.parametrize("point", points.drains("orders"), ids=points.id_of)
def test_an_order_is_placed_and_answered_before_the_end(orders: Mortal, module_database: stack.TestDatabase, point: Point) -> None:
    user = controls.new_id("user-")
    orders.order(point, "term")
    answer = place(orders, user)
    orders.drained(point)
    orders.again()
    assert answer is not None
    assert (answer.status_code, rows(module_database, user)) == (201, ONE_ORDER)


def test_the_list_has_every_step_of_an_order(serve_mortal: ServeMortal, module_database: stack.TestDatabase) -> None:
    traced = serve_mortal("orders", "orders", module_database.environment(), traced=True)
    assert place(traced, controls.new_id("user-")) is not None
    steps = points.TABLES["orders"]
    stack.eventually(lambda: traced.has_passed(steps), "every step to be passed")
    in_order = [step for step in steps if not step.aside]
    assert mortal.order_of(traced.trace(), in_order) == [step.name for step in in_order]
    assert mortal.uncovered(traced.trace()) == []

"""Orders, through the server that production runs and a real database."""

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from shared import database as databases
from shared.config import Settings
from tests import conftest, controls, stack

Database = stack.TestDatabase
BODY = {"user_id": "user-1", "items": [{"product_id": "tea", "quantity": 2}, {"product_id": "cup", "quantity": 1}]}
PROBLEM = "application/problem+json"


@pytest.fixture
def orders(start_function: conftest.StartFunction, database: Database) -> Iterator[httpx.Client]:
    """The function, with its own role and a fresh database."""
    with httpx.Client(base_url=start_function("orders", database.environment()).url, timeout=30) as client:
        yield client


def place(orders: httpx.Client, body: Any = BODY, **headers: str) -> httpx.Response:
    return orders.post("/orders", json=body, headers=headers)


def faults(answer: httpx.Response) -> list[str]:
    """The fields that a problem names."""
    assert answer.headers["content-type"] == PROBLEM, answer.text
    return [fault["field"] for fault in answer.json().get("errors", [])]


def test_an_order_its_items_and_its_event_are_stored_together(orders: httpx.Client, database: Database) -> None:
    """201 with the order and its address; the event costs what the items cost and belongs to the caller's trace."""
    answer = place(orders, traceparent=controls.TRACEPARENT)
    order = answer.json()
    assert answer.status_code == 201
    assert order == {"id": order["id"], "status": "paid", **BODY, "items": BODY["items"][::-1]}
    assert orders.get(answer.headers["location"]).json() == order
    assert database.run("SELECT id, user_id, status FROM orders") == [[order["id"], "user-1", "paid"]]
    assert database.run("SELECT product_id, quantity FROM order_items ORDER BY 1") == [["cup", 1], ["tea", 2]]
    columns = "event_id, event_type, aggregate_id, topic, record_key, producer, status, payload, headers"
    ((event_id, *row, payload, headers),) = database.run(f"SELECT {columns} FROM order_outbox_events")
    topic = "order.payment.completed"
    assert row == [topic, order["id"], topic, order["id"].encode(), "orders", "pending"]
    event = json.loads(payload)
    assert str(uuid.UUID(event_id)) == event["event_id"]
    assert [uuid.UUID(made).version for made in (order["id"], event_id)] == [7, 7]
    assert (event["order_id"], event["user_id"], event["amount"], event["payment_method"]) == (order["id"], "user-1", 30_000, "card")
    assert (headers["ce_id"], headers["traceparent"]) == (event_id, controls.TRACEPARENT)


def test_a_repeated_product_is_merged(orders: httpx.Client) -> None:
    """Its quantities are summed up, and the items are sorted by product."""
    items = [{"product_id": product, "quantity": quantity} for product, quantity in (("b", 1), ("a", 2), ("b", 3))]
    order = place(orders, {"user_id": "u", "items": items}).json()
    assert order["items"] == [{"product_id": "a", "quantity": 2}, {"product_id": "b", "quantity": 4}]
    assert orders.get(f"/orders/{order['id']}").json() == order


def test_orders_are_listed_newest_first_page_by_page(orders: httpx.Client) -> None:
    """Every order of the user once, none of another's, and no cursor after the last page."""
    ids = [place(orders, BODY | {"user_id": "lister"}).json()["id"] for _ in range(7)]
    place(orders)
    seen: list[str] = []
    cursor: str | None = None
    for expected in (3, 3, 1):
        page = orders.get("/orders", params={"user_id": "lister", "limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        assert len(page["orders"]) == expected
        seen += [order["id"] for order in page["orders"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert seen == ids[::-1]
    assert orders.get("/orders", params={"user_id": "nobody"}).json() == {"orders": [], "next_cursor": None}


def item(**changes: Any) -> dict[str, Any]:
    return {"user_id": "u", "items": [{"product_id": "p", "quantity": 1} | changes]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"items": BODY["items"]}, "user_id"),
        (BODY | {"user_id": ""}, "user_id"),
        (BODY | {"user_id": "x" * 129}, "user_id"),
        (BODY | {"user_id": "a\x00b"}, "user_id"),
        (BODY | {"user_id": "a\x85b"}, "user_id"),
        (BODY | {"user_id": 7}, "user_id"),
        ({"user_id": "u"}, "items"),
        ({"user_id": "u", "items": []}, "items"),
        ({"user_id": "u", "items": {}}, "items"),
        ({"user_id": "u", "items": [{"product_id": f"p{n}", "quantity": 1} for n in range(101)]}, "items"),
        (item(quantity=0), "items.0.quantity"),
        (item(quantity=1_000_001), "items.0.quantity"),
        (item(quantity=10**4000), "items.0.quantity"),
        (item(quantity=1.5), "items.0.quantity"),
        (item(quantity="1"), "items.0.quantity"),
        (item(quantity=True), "items.0.quantity"),
        (item(quantity=None), "items.0.quantity"),
        (item(product_id="\n"), "items.0.product_id"),
        ([BODY], "body"),
        ("text", "body"),
    ],
)
def test_a_wrong_field_is_named(orders_for_reading: httpx.Client, body: Any, field: str) -> None:
    """422, and the problem says which field and why; nothing is stored."""
    answer = place(orders_for_reading, body)
    assert answer.status_code == 422
    assert faults(answer) == [field]
    assert answer.json()["status"] == 422


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"user_id":"u","items":[',
        b"\xff\xfe",
        b'{"user_id":"\\ud800","items":[{"product_id":"p","quantity":1}]}',
        b'{"user_id":"u","items":[{"product_id":"p","quantity":NaN}]}',
        b'{"user_id":"u","items":[{"product_id":"p","quantity":%b}]}' % (b"1" * 10_000),
        b'{"user_id":"u","items":[{"product_id":"p","quantity":1}]} x',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_json_is_malformed(orders_for_reading: httpx.Client, body: bytes) -> None:
    """Cut, empty, deep, not UTF-8 or with half a character: 400 or 422, never 500."""
    answer = orders_for_reading.post("/orders", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}, answer.text
    assert faults(answer)


@pytest.fixture(scope="module")
def orders_for_reading(tmp_path_factory: pytest.TempPathFactory, postgres: stack.PostgresServer) -> Iterator[httpx.Client]:
    """One function for the tests that store nothing."""
    database = postgres.new_database()
    process = stack.start_function("orders", database.environment(), tmp_path_factory.mktemp("orders") / "log.txt")
    with httpx.Client(base_url=process.url, timeout=30) as client:
        yield client
    assert database.run("SELECT count(*) FROM orders") == [[0]]
    assert "Traceback" not in process.text
    process.kill()
    postgres.drop(database)


def test_other_media_types_are_not_taken(orders_for_reading: httpx.Client) -> None:
    """A form, another charset and a compressed body: 415."""
    for headers in ({"content-type": "text/plain"}, {"content-type": "application/json; charset=utf-16"},
                    {"content-type": "application/json", "content-encoding": "gzip"}):  # fmt: skip
        answer = orders_for_reading.post("/orders", content=json.dumps(BODY), headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (415, PROBLEM)


def test_a_large_body_is_refused_announced_or_not(orders_for_reading: httpx.Client) -> None:
    """413 by its Content-Length, and while it streams in chunks."""
    announced = place(orders_for_reading, {"user_id": "u" * 300_000})
    headers = {"content-type": "application/json"}
    streamed = orders_for_reading.post("/orders", content=(b"x" * 10_000 for _ in range(100)), headers=headers)
    for answer in (announced, streamed):
        assert (answer.status_code, answer.headers["content-type"]) == (413, PROBLEM)


def test_a_client_that_goes_away_in_the_middle_orders_nothing(orders_for_reading: httpx.Client) -> None:
    """A body shorter than announced is no request; the function goes on."""
    address = ("127.0.0.1", orders_for_reading.base_url.port or 0)
    whole = json.dumps(BODY).encode()
    for sent in (whole, whole[:-9]):
        with socket.create_connection(address) as client:
            head = f"POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(whole) + 5}\r\n\r\n"
            client.sendall(head.encode() + sent)
    assert orders_for_reading.get("/orders", params={"user_id": "user-1"}).json()["orders"] == []


def test_what_is_not_there_and_what_is_not_allowed_are_problems(orders_for_reading: httpx.Client) -> None:
    """404 for unknown addresses and orders, whatever their id looks like; 405 names the methods."""
    for path in ("/", "/nothing", "/orders/unknown", "/orders/a%00b", "/orders/%ff", f"/orders/{'x' * 500}", "/orders/a/b", "/orders/"):
        answer = orders_for_reading.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM), path
    for method in ("DELETE", "PUT", "PATCH", "OPTIONS"):
        answer = orders_for_reading.request(method, "/orders")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
        assert answer.headers["content-type"] == PROBLEM
    assert orders_for_reading.post("/orders/x").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "user_id"),
        ({"user_id": "a\x00"}, "user_id"),
        ({"user_id": "u", "limit": "0"}, "limit"),
        ({"user_id": "u", "limit": "101"}, "limit"),
        ({"user_id": "u", "limit": "many"}, "limit"),
        ({"user_id": "u", "cursor": "zzz"}, "cursor"),
        ({"user_id": "u", "cursor": "\ud7ff"}, "cursor"),
        ({"user_id": "u", "cursor": "MjAyNi0xMS0yNFQxMjowMDowMCBh"}, "cursor"),
        ({"user_id": "u", "cursor": "OTk5OS0xMi0zMVQyMzo1OTo1OSswMDowMCBh"}, "cursor"),
        ({"user_id": "u", "cursor": "x" * 600}, "cursor"),
    ],
)
def test_a_wrong_parameter_is_named(orders_for_reading: httpx.Client, query: dict[str, str], field: str) -> None:
    """422 that names the parameter: missing, out of bounds, or a cursor that is not ours."""
    answer = orders_for_reading.get("/orders", params=query)
    assert answer.status_code == 422
    assert faults(answer) == [field]


def test_head_is_answered_like_get(orders_for_reading: httpx.Client) -> None:
    """The same status and length, without a body."""
    for path in ("/orders?user_id=u", "/orders/unknown", "/docs", "/openapi.json", "/health"):
        head, get = orders_for_reading.head(path), orders_for_reading.get(path)
        assert (head.status_code, head.headers["content-length"], head.content) == (get.status_code, get.headers["content-length"], b"")


def test_the_api_describes_itself(orders_for_reading: httpx.Client) -> None:
    """openapi.json has the headers, bounds and problems, with no reference that leads nowhere; /docs can be read offline."""
    document = orders_for_reading.get("/openapi.json").json()
    post = document["paths"]["/orders"]["post"]
    assert [parameter["name"] for parameter in post["parameters"]] == ["Idempotency-Key"]
    assert {"Location", "Idempotency-Replayed"} == set(post["responses"]["201"]["headers"])
    assert {"201", "400", "409", "413", "415", "422", "429", "503"} == set(post["responses"])
    for status in ("409", "429", "503"):
        assert "Retry-After" in post["responses"][status]["headers"]
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                assert list(answer["content"]) == ["application/json" if status.startswith("2") else PROBLEM]
    schemas = document["components"]["schemas"]
    assert {ref.rsplit("/", 1)[1] for ref in refs(document)} == set(schemas)
    assert schemas["Item"]["properties"]["quantity"]["maximum"] == 1_000_000
    page = orders_for_reading.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "POST /orders" in page.text


def refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from refs(each)


def test_addresses_are_those_that_the_caller_can_follow(start_function: conftest.StartFunction, database: Database) -> None:
    """Behind a gateway that shows the function below a prefix, Location and the OpenAPI document's server begin with it."""
    env = database.environment() | {"PUBLIC_PATH_PREFIX": "/function/orders"}
    with httpx.Client(base_url=start_function("orders", env).url, timeout=30) as orders:
        answer = place(orders)
        document = orders.get("/openapi.json").json()
    assert f"/function/orders/orders/{answer.json()['id']}" == answer.headers["location"]
    assert [{"url": "/function/orders"}] == document["servers"]


def test_an_order_that_costs_too_much_is_refused(start_function: conftest.StartFunction, database: Database) -> None:
    """An amount above 10^15 kopecks has no event, so there is no such order."""
    env = database.environment() | {"ORDER_ITEM_PRICE_KOPECKS": "1000000000"}
    with httpx.Client(base_url=start_function("orders", env).url, timeout=30) as orders:
        fits = place(orders, {"user_id": "u", "items": [{"product_id": "p", "quantity": 1_000_000}]})
        too_much = place(orders, {"user_id": "u", "items": [{"product_id": name, "quantity": 1_000_000} for name in "ab"]})
    assert fits.status_code == 201
    assert (too_much.status_code, faults(too_much)) == (422, ["items"])
    assert database.run("SELECT count(*) FROM orders") == [[1]]


def test_a_database_that_is_away_is_answered_503(
    start_function: conftest.StartFunction, private_postgres: Callable[..., stack.PostgresServer]
) -> None:
    """Retry-After on reads and writes, /health stays well and /ready does not; and orders are taken again when it is back."""
    server = private_postgres()
    process = start_function("orders", server.new_database().environment())
    with httpx.Client(base_url=process.url, timeout=30) as orders:
        first = place(orders).json()
        server.stop()
        for answer in (place(orders), orders.get("/orders/x"), orders.get("/orders?user_id=u"), orders.get("/ready")):
            assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
            assert int(answer.headers["retry-after"]) >= 1
        assert orders.get("/health").status_code == 200
        server.start()
        stack.eventually(lambda: place(orders).status_code == 201, "an order after the outage")
        assert orders.get(f"/orders/{first['id']}").json() == first
    assert "Traceback" not in process.text


def test_no_order_is_answered_201_and_lost_when_the_database_dies(
    start_function: conftest.StartFunction, private_postgres: Callable[..., stack.PostgresServer]
) -> None:
    """While the server is killed and comes back, every order that was answered 201 is there with its event."""
    server = private_postgres({"fsync": "on"})
    database = server.new_database()
    url = start_function("orders", database.environment()).url
    ids: list[str] = []
    ending = threading.Event()

    def buy() -> None:
        with httpx.Client(base_url=url, timeout=30) as orders:
            while not ending.is_set():
                answer = place(orders)
                assert answer.status_code in {201, 503}
                ids.extend([answer.json()["id"]] if answer.status_code == 201 else [])

    with ThreadPoolExecutor(4) as people:
        buying = [people.submit(buy) for _ in range(4)]
        stack.eventually(lambda: len(ids) > 50, "orders before")
        server.kill()
        server.start()
        before = len(ids)
        stack.eventually(lambda: len(ids) > before + 50, "orders afterwards")
        ending.set()
        for each in buying:
            each.result()
    there = database.run(
        "SELECT count(*) FROM orders o JOIN order_outbox_events e ON e.aggregate_id = o.id WHERE o.id = ANY(:ids)", ids=ids
    )
    assert there == [[len(ids)]]


def test_it_runs_under_the_functions_framework_command(start_process: conftest.StartProcess, database: Database) -> None:
    """`functions-framework --asgi` answers as production does."""
    (port,) = stack.child.free_ports(1)
    command = [f"{stack.home.CHECKOUT}/.venv/bin/functions-framework", "--asgi", "--target=handle", "--source=functions/orders/main.py"]
    process = start_process([*command, "--host=127.0.0.1", f"--port={port}"], database.environment(), url=f"http://127.0.0.1:{port}")
    process.wait_ready()
    with httpx.Client(base_url=process.url, timeout=30) as orders:
        answer = place(orders)
        assert answer.status_code == 201
        assert orders.get(answer.headers["location"]).json() == answer.json()
        assert orders.get("/ready").status_code == 200
        assert orders.get("/openapi.json").status_code == 200
        assert "orderflow_http_requests_total" in orders.get("/metrics").text
    assert process.stop() == 0


def test_a_delivery_token_is_no_business_of_those_who_order(start_function: conftest.StartFunction, database: Database) -> None:
    """Orders come from people; the token is between sources and functions."""
    with httpx.Client(base_url=start_function("orders", database.environment() | {"DELIVERY_TOKEN": "t" * 32}).url, timeout=30) as orders:
        assert place(orders).status_code == 201


def test_sigterm_lets_an_order_in_flight_finish(start_function: conftest.StartFunction, database: Database) -> None:
    """It is answered 201, and the process exits 0."""
    process = start_function("orders", database.environment() | {"LOCK_TIMEOUT": "4s", "STATEMENT_TIMEOUT": "8s"})
    holder = databases.Database(database.dsn(), settings=Settings(), application="holder")
    locked, release = threading.Event(), threading.Event()

    def hold(tx: databases.Transaction) -> None:
        tx.run("LOCK TABLE orders IN EXCLUSIVE MODE")
        locked.set()
        release.wait(30)

    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(holder.transact, hold)
        assert locked.wait(10)
        answer = threads.submit(httpx.post, f"{process.url}/orders", json=BODY, timeout=30)
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass"
        stack.eventually(lambda: database.run(waits), "the order to wait for the lock")
        process.send(stack.signal.SIGTERM)
        time.sleep(0.3)
        release.set()
        holding.result()
        assert answer.result().status_code == 201
    assert process.wait() == 0
    holder.close()

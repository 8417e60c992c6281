"""notify sends each message once, and repeats one only where its outcome was not recorded."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from functions.notify import messages
from functions.notify import telegram as telegram_api
from shared import config, errors, events
from tests import controls, serving, stack
from tests.functions.telegram_server import TelegramServer


@pytest.fixture(scope="module")
def running_telegram() -> Iterator[TelegramServer]:
    with TelegramServer() as server:
        yield server


@pytest.fixture
def telegram(running_telegram: TelegramServer) -> TelegramServer:
    """Telegram, which has been sent nothing yet and takes every message at once."""
    running_telegram.forget()
    return running_telegram


@pytest.fixture(scope="module")
def notify(serve: Any, module_database: stack.TestDatabase, running_telegram: TelegramServer) -> stack.Process:
    """notify with Telegram on."""
    settings = {
        "TELEGRAM_ENABLED": "true",
        "TELEGRAM_BOT_TOKEN": "123:planted-secret",
        "TELEGRAM_CHAT_ID": "42",
        "TELEGRAM_URL": running_telegram.url,
        "TELEGRAM_TIMEOUT": "14s",
    }
    return serve("functions/notify/main.py", module_database.environment() | settings)


def send(notify: stack.Process, payload: controls.Payload) -> httpx.Response:
    return httpx.post(notify.url, timeout=30, **controls.binary(payload))


def test_a_payment_is_announced_with_order_user_amount_method_and_time() -> None:
    event = events.OrderPaid.model_validate(controls.paid(order_id="o-1", amount=1_234_567))
    assert messages.text(event).splitlines() == [
        "Order o-1 is paid", "User: user-7", "Amount: 12 345.67 ₽", "Payment method: card", "Time: 2026-11-24 12:00:00 UTC",
    ]  # fmt: skip


def test_an_assembly_is_announced_with_order_user_and_time() -> None:
    event = events.OrderAssembled.model_validate(controls.assembled(order_id="o-1"))
    assert messages.text(event).splitlines() == ["Order o-1 is assembled", "User: user-7", "Time: 2026-11-24 12:00:10 UTC"]


@pytest.mark.parametrize(("kopecks", "text"), [(0, "0.00 ₽"), (5, "0.05 ₽"), (100, "1.00 ₽"), (10**15, "10 000 000 000 000.00 ₽")])
def test_an_amount_is_said_in_roubles_and_kopecks(kopecks: int, text: str) -> None:
    assert messages.amount(kopecks) == text


def test_a_message_goes_to_the_chat_of_the_settings_and_the_row_says_where_the_record_lay(
    notify: stack.Process, telegram: TelegramServer, module_database: stack.TestDatabase
) -> None:
    payload = controls.paid()
    assert send(notify, payload).json() == {"outcome": "done"}
    assert send(notify, payload).json() == {"outcome": "duplicate"}
    assert telegram.paths == ["/bot123:planted-secret/sendMessage"]
    assert telegram.messages[0]["chat_id"] == "42"
    row = module_database.run(
        "SELECT topic, partition, message_offset, status, processed_at IS NOT NULL FROM notification_inbox_events WHERE event_id = :id",
        id=payload["event_id"],
    )
    assert [["order.payment.completed", 3, 3_000_000_000, "sent", True]] == row


def test_without_telegram_the_message_is_logged(start_function: Any, database: stack.TestDatabase) -> None:
    notify = start_function("notify", database.environment())
    payload = controls.assembled()
    assert send(notify, payload).json() == {"outcome": "done"}
    assert f"notification: Order {payload['order_id']} is assembled" in notify.text


@pytest.mark.parametrize(
    ("answer", "status", "retry_after"),
    [
        ((429, {"ok": False, "parameters": {"retry_after": 17}}), 429, "17"),
        ((429, {"ok": False}), 429, "5"),
        ((500, {}), 503, "5"),
        ((401, {"ok": False, "description": "Unauthorized"}), 503, "5"),
        ((403, {"ok": False, "description": "Forbidden: bot was blocked"}), 503, "5"),
        ((404, {"ok": False, "description": "Not Found"}), 503, "5"),
        ((400, {"ok": False, "description": "Bad Request: chat not found"}), 503, "5"),
        ((400, {"ok": False, "description": "Bad Request: message is too long"}), 422, None),
    ],
)
def test_what_telegram_answers_decides_whose_fault_it_is_and_the_lease_is_given_back(
    notify: stack.Process, telegram: TelegramServer, answer: tuple[int, dict[str, Any]], status: int, retry_after: str | None
) -> None:
    payload = controls.paid()
    telegram.answers = [answer]
    refused = send(notify, payload)
    assert (status, retry_after) == (refused.status_code, refused.headers.get("retry-after"))
    # At once, not after the lease: the same event is sent.
    assert send(notify, payload).json() == {"outcome": "done"}


def test_settings_that_telegram_refuses_are_an_error_in_the_log_and_the_token_is_not(
    notify: stack.Process, telegram: TelegramServer
) -> None:
    telegram.answers = [(401, {"ok": False, "description": "Unauthorized"})]
    answer = send(notify, controls.paid())
    assert "TELEGRAM_BOT_TOKEN" in notify.text
    assert "planted-secret" not in notify.text + answer.text


def test_no_answer_of_telegram_is_an_outage(
    start_function: Any, notify: stack.Process, database: stack.TestDatabase, telegram: TelegramServer
) -> None:
    impatient = start_function("notify", notify.env | database.environment() | {"TELEGRAM_TIMEOUT": "500ms"})
    patient = start_function("notify", notify.env | database.environment())
    telegram.answering.clear()
    payload = controls.paid()
    assert send(impatient, payload).status_code == 503
    telegram.answering.set()
    assert send(patient, payload).json() == {"outcome": "done"}
    assert len(telegram.about(payload["order_id"])) == 2  # the answer was lost, so nobody knows that it was sent


def test_D07_a_live_lease_is_busy_however_often_others_come_and_its_owner_finishes(notify: stack.Process, telegram: TelegramServer) -> None:
    payload = controls.paid()
    others: list[httpx.Response] = []
    with meanwhile(telegram, payload, lambda: others.extend(send(notify, payload) for _ in range(3))):
        owner = send(notify, payload)
    assert [409] * 3 == [other.status_code for other in others]
    assert all(1 <= int(other.headers["retry-after"]) <= 15 for other in others)
    assert owner.json() == {"outcome": "done"}
    assert send(notify, payload).json() == {"outcome": "duplicate"}
    assert len(telegram.about(payload["order_id"])) == 1


def test_O04_the_lease_of_a_killed_process_is_taken_over_when_it_has_ended(
    notify: stack.Process, telegram: TelegramServer, module_database: stack.TestDatabase
) -> None:
    payload = controls.paid()
    with pytest.raises(httpx.TransportError), meanwhile(telegram, payload, notify.kill):
        send(notify, payload)
    notify.start()
    notify.wait_ready()
    first = send(notify, payload)
    assert (409, "leased", True) == (first.status_code, first.json()["code"], int(first.headers["retry-after"]) <= 15)
    module_database.run(
        "UPDATE notification_inbox_events SET lease_ends_at = clock_timestamp() WHERE event_id = :id", id=payload["event_id"]
    )
    assert send(notify, payload).json() == {"outcome": "done"}
    assert len(telegram.about(payload["order_id"])) == 2
    lines = [line for line in notify.text.splitlines() if "no outcome of an earlier try was recorded" in line]
    assert [payload["event_id"]] == [json.loads(line)["event_id"] for line in lines]


def test_D09_a_send_that_outlived_its_lease_cannot_mark_it(
    notify: stack.Process, telegram: TelegramServer, module_database: stack.TestDatabase
) -> None:
    payload = controls.paid()

    def take_over() -> None:
        # As when the process was frozen past the end of its lease, and another delivery took the event over.
        module_database.run("UPDATE notification_inbox_events SET lease_token = 'another' WHERE event_id = :id", id=payload["event_id"])

    with meanwhile(telegram, payload, take_over):
        answer = send(notify, payload)
    assert (409, "leased") == (answer.status_code, answer.json()["code"])
    assert "outlived its lease" in notify.text
    row = module_database.run("SELECT status, lease_token FROM notification_inbox_events WHERE event_id = :id", id=payload["event_id"])
    assert [["claimed", "another"]] == row


def test_a_mark_that_the_database_did_not_take_is_told_and_the_message_may_repeat(
    notify: stack.Process, telegram: TelegramServer, module_database: stack.TestDatabase
) -> None:
    payload = controls.paid()
    with meanwhile(
        telegram, payload, lambda: module_database.run("REVOKE UPDATE ON notification_inbox_events FROM orderflow_notification")
    ):
        answer = send(notify, payload)
    module_database.run("GRANT UPDATE ON notification_inbox_events TO orderflow_notification")
    assert answer.status_code == 503
    module_database.run(
        "UPDATE notification_inbox_events SET lease_ends_at = clock_timestamp() WHERE event_id = :id", id=payload["event_id"]
    )
    assert send(notify, payload).json() == {"outcome": "done"}
    assert len(telegram.about(payload["order_id"])) == 2


def test_in_a_batch_each_event_is_on_its_own(notify: stack.Process, telegram: TelegramServer) -> None:
    payloads = [controls.paid(), controls.assembled(), controls.paid()]
    telegram.answers = [(200, {"ok": True}), (500, {}), (200, {"ok": True})]
    answer = httpx.post(notify.url, timeout=30, **controls.batch(payloads))
    assert [200, 503, 200] == [result["status"] for result in answer.json()["results"]]


def test_what_does_not_fit_the_deadline_is_answered_503_and_was_not_claimed(
    start_function: Any, database: stack.TestDatabase, telegram: TelegramServer
) -> None:
    settings = {"TELEGRAM_ENABLED": "true", "TELEGRAM_BOT_TOKEN": "1:x", "TELEGRAM_CHAT_ID": "4", "TELEGRAM_URL": telegram.url}
    limits = {"LOCK_TIMEOUT": "500ms", "STATEMENT_TIMEOUT": "1s", "DELIVERY_DEADLINE": "2s"}
    notify = start_function("notify", database.environment() | settings | limits)
    telegram.answering.clear()
    payloads = [controls.paid() for _ in range(4)]
    past = threading.Timer(2.1, telegram.answering.set)  # the deadline of what comes after the first

    def start_the_clock() -> None:
        stack.eventually(lambda: telegram.messages, "the first message")
        past.start()

    clock = threading.Thread(target=start_the_clock)
    clock.start()
    results = httpx.post(notify.url, timeout=30, **controls.batch(payloads)).json()["results"]
    clock.join()
    assert [(200, None)] + [(503, "deadline")] * 3 == [(result["status"], result.get("code")) for result in results]
    late = [payload["event_id"] for payload in payloads[1:]]
    assert [] == database.run("SELECT event_id FROM notification_inbox_events WHERE event_id = ANY(:ids)", ids=late)


@contextlib.contextmanager
def meanwhile(telegram: TelegramServer, payload: controls.Payload, act: Callable[[], object]) -> Iterator[None]:
    """Act, from another thread, when Telegram has the message of an event and before it answers."""
    telegram.answering.clear()

    def wait_and_act() -> None:
        try:
            stack.eventually(lambda: telegram.about(payload["order_id"]), "the message")
            act()
        finally:
            telegram.answering.set()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


async def test_messages_sent_at_once_keep_their_connections_for_the_next() -> None:
    many = 32  # eight requests of each of two sources, each in two processes
    with TelegramServer() as server:
        chat = telegram_api.Telegram.of(config.Settings().model_copy(update={"telegram_url": server.url, "telegram_chat_id": "1"}))
        for times in (1, 2):
            server.answering.clear()
            sends = [asyncio.create_task(chat.send(f"message {n}")) for n in range(many)]
            await asyncio.to_thread(stack.eventually, lambda wanted=many * times: len(server.messages) == wanted, "all on their way")
            server.answering.set()
            await asyncio.gather(*sends)
        assert many == server.connections
        await chat._client.aclose()


async def test_a_message_that_was_given_up_leaves_no_connection_in_use() -> None:
    """However close to its end a send is given up: a connection that stays in use is lost, and there are a hundred."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async def send(timeout_s: float) -> bool:
        with contextlib.suppress(errors.Unavailable):
            await telegram_api.Telegram(client, "1:t", "1", timeout_s).send("text")
            return True
        return False

    sent: list[bool] = []
    async with serving.serving(answer) as url, httpx.AsyncClient(base_url=url) as client:
        began = time.monotonic()
        assert all(await asyncio.gather(*(send(30) for _ in range(32))))
        took_s = time.monotonic() - began
        for n in range(60):
            sent += await asyncio.gather(*(send((n + place / 32) / 60 * took_s) for place in range(32)))
        connections = client._transport._pool.connections
        assert [] == [connection for connection in connections if not connection.is_idle()]
        assert await send(30)
    assert False in sent

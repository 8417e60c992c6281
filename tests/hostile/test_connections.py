"""Slow, half-closed, broken and crowding clients: each is answered or cut, and costs the others nothing."""

import contextlib
import http.client

import httpx
import psutil
import pytest

from tests import stack
from tests.hostile import wire
from tests.hostile.conftest import StartTarget, Target


def test_a_head_that_comes_byte_by_byte_is_given_up(targets: list[Target]) -> None:
    with wire.to_each(target.process for target in targets) as slow:
        wire.drip(slow, wire.head("/", "x: y")[:-2] + b"a: b\r\n" * 10_000)
        for each in slow:
            assert wire.problem(answer := each.answer()) == "request_timeout"
            assert (408, "close") == (answer.status, answer.headers["connection"])
            assert each.rest() == b""


def test_a_body_that_comes_byte_by_byte_is_given_up_and_others_are_served_meanwhile(targets: list[Target]) -> None:
    with wire.to_each(target.process for target in targets) as slow:
        for target, each in zip(targets, slow, strict=True):
            each.send(wire.head(target.path, "content-type: application/json", "content-length: 100000"))
        assert {target.post().status_code for target in targets} <= {200, 201}
        wire.drip(slow, b" ")
        assert {(408, "request_timeout")} == {((answer := each.answer()).status, wire.problem(answer)) for each in slow}


def test_a_body_that_never_ends_is_cut_though_it_was_answered_long_ago(targets: list[Target]) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with wire.to_each(target.process for target in targets) as endless:
        for target, each in zip(targets, endless, strict=True):
            each.send(wire.head(target.path, "content-type: application/json", "transfer-encoding: chunked"))
        stack.eventually(lambda: not [each for each in endless if each.send(chunk)], "the connections to be cut")


def test_a_connection_on_which_nothing_comes_is_closed_and_so_is_one_with_nothing_but_empty_lines(targets: list[Target]) -> None:
    processes = [target.process for target in targets]
    with wire.to_each(processes) as idle, wire.to_each(processes) as empty:
        stack.eventually(lambda: not [each for each in empty if each.send(b"\r\n")], "the connections to be cut")
        assert {b""} == {each.rest() for each in idle}


def test_a_client_that_has_said_all_and_closed_its_half_gets_its_answer(target: Target) -> None:
    with wire.to(target.process) as half:
        half.send(target.request())
        half.socket.shutdown(1)
        assert half.answer().status in {200, 201}
        assert half.rest() == b""


@pytest.mark.parametrize(
    "sent", [b"", b"PO", b"POST / HTTP/1.1\r\nhost", b"head", b"half"], ids=["nothing", "line", "header", "head", "half"]
)
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_is_closed_in_the_middle_is_nobodys_trouble(target: Target, sent: bytes, reset: bool) -> None:
    whole = target.request()
    sent = {b"head": whole[: whole.index(b"\r\n\r\n") + 4], b"half": whole[:-10]}.get(sent, sent)
    with wire.to(target.process) as going:
        going.send(sent)
        if reset:
            going.socket.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0: an RST instead of a FIN
    assert httpx.get(f"{target.process.url}/health", timeout=stack.PATIENCE_S).status_code == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: a\rb: c\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n\x1f\x8b",
    ],
)
def test_what_is_no_http_is_answered_400_as_a_problem_and_cut(target: Target, garbage: bytes) -> None:
    with wire.to(target.process) as stranger:
        stranger.send(garbage)
        assert (400, "malformed_request") == ((answer := stranger.answer()).status, wire.problem(answer))
        assert stranger.rest() == b""


def test_thousands_of_requests_one_behind_the_other_are_not_all_taken(target: Target) -> None:
    """Each took 10 kB while it waited, and each answer let in seven thousand more."""
    before = wire.memory_mib(target.process.pid)
    with wire.to(target.process) as pipelined:
        pipelined.send(wire.head("/health", method="GET") * 20_000)
        answered = pipelined.rest().count(b"HTTP/1.1 200")
    assert 1 <= answered <= 20_000
    assert wire.memory_mib(target.process.pid) < before + 32


def test_garbage_behind_a_request_costs_that_request_nothing(target: Target) -> None:
    with wire.to(target.process) as pipelined:
        pipelined.send(target.request() + b"\x00garbage\r\n\r\n" * 1000)
        assert pipelined.answer().status in {200, 201}


def test_requests_one_behind_the_other_are_answered_in_their_order(target: Target) -> None:
    with wire.to(target.process) as pipelined:
        pipelined.send(
            wire.head("/health", method="GET") + target.request() + wire.head("/nowhere-at-all", "connection: close", method="PUT")
        )
        statuses = [int(part[:3]) for part in pipelined.rest().split(b"HTTP/1.1 ")[1:]]
    assert len(statuses) == 3
    assert statuses[0] == 200
    assert statuses[1] in {200, 201}
    assert statuses[2] in {404, 405}


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "TLS/1.0"])
def test_nobody_is_upgraded(target: Target, upgrade: str) -> None:
    with wire.to(target.process) as wishful:
        wishful.send(wire.head("/health", "connection: upgrade", f"upgrade: {upgrade}", "sec-websocket-key: x", method="GET"))
        assert wishful.answer().status in {200, 400}


def test_five_hundred_idle_connections_keep_nobody_out(target: Target) -> None:
    idle = []
    try:
        for _ in range(500):
            idle.append(wire.Wire(target.process.url))
            idle[-1].send(b"GET /health HTTP/1.1\r\n")
        assert target.post().status_code in {200, 201}
        held = [each for each in psutil.Process(target.process.pid).net_connections() if each.status == psutil.CONN_ESTABLISHED]
        assert len(held) < 64 + 20  # with those to the database
    finally:
        for each in idle:
            each.close()


def test_while_all_connections_are_at_work_a_new_one_is_told_to_come_again(target: Target) -> None:
    busy = [wire.Wire(target.process.url) for _ in range(64)]
    try:
        for each in busy:
            each.send(wire.head(target.path, "content-type: application/json", "content-length: 1000"))
        with wire.to(target.process) as late, contextlib.suppress(http.client.HTTPException, ConnectionError):
            stack.eventually(late.closing, "an answer")
            assert (503, "too_many_connections") == ((answer := late.answer()).status, wire.problem(answer))
            assert "retry-after" in answer.headers
    finally:
        for each in busy:
            each.close()
    stack.eventually(lambda: target.post().status_code in {200, 201}, "it to be served again")


def test_a_client_that_takes_no_answer_is_cut(start_target: StartTarget) -> None:
    """A page of 5 MB, more than the kernel takes from us while the other side reads nothing."""
    target = start_target("orders")
    target.database.run("INSERT INTO orders (id, user_id, status) SELECT 'deaf-' || n, 'deaf', 'paid' FROM generate_series(1, 100) AS n")
    items = "SELECT 'deaf-' || n, repeat('😀', 120) || m, 1 FROM generate_series(1, 100) AS n, generate_series(1, 100) AS m"
    target.database.run(f"INSERT INTO order_items (order_id, product_id, quantity) {items}")
    cut = 'orderflow_connections_cut_total{why="unread"}'
    with wire.to(target.process, receive_bytes=4096) as deaf:
        deaf.send(wire.head("/orders?user_id=deaf&limit=100", method="GET"))
        stack.eventually(lambda: cut in httpx.get(f"{target.process.url}/metrics", timeout=stack.PATIENCE_S).text, "it to be cut")

"""Too many headers, too long ones, bodies without end, bodies that unpack to more: refused by name, and never held whole."""

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from shared import connections
from tests import controls, stack
from tests.hostile import wire
from tests.hostile.conftest import StartTarget, Target

HUGE = connections.HEAD_BYTES_MAX + wire.MIB


def get(target: Target, **headers: Any) -> httpx.Response:
    return httpx.get(f"{target.process.url}/health", timeout=stack.PATIENCE_S, **headers)


@pytest.mark.parametrize("name", ["x-", "ce-x", "x"])
def test_ten_thousand_headers_are_read(target: Target, name: str) -> None:
    """As attributes of the event, as others, and as one that is repeated."""
    numbers = [""] * 10_000 if name == "x" else range(10_000)
    with wire.to(target.process) as flooding:
        flooding.send(target.request(*(f"{name}{n}: yyyyyyyyyy" for n in numbers)))
        assert flooding.answer().status in {200, 201}


@pytest.mark.parametrize("name", ["ce-id", "ce-specversion", "content-type", "authorization", "idempotency-key", "host"])
def test_a_header_that_is_repeated_is_read_or_refused(target: Target, name: str) -> None:
    with wire.to(target.process) as repeating:
        repeating.send(target.request(f"{name}: 1", f"{name}: 2", f"{name}: \xff"))
        assert repeating.answer().status in {200, 201, 400, 415, 422}


@pytest.mark.parametrize("kind", ["line", "one", "many", "blanks"])
def test_a_head_without_end_is_refused_as_too_large(target: Target, kind: str) -> None:
    flood = {
        "line": b"GET /" + b"x" * HUGE,
        "one": wire.head(target.path)[:-2] + b"x: " + b"y" * HUGE,
        "many": wire.head(target.path)[:-2] + b"x: y\r\n" * (HUGE // 6),
        "blanks": b"\r\n" * (HUGE // 2),
    }[kind]
    with wire.to(target.process) as flooding:
        flooding.send(flood)
        assert (431, "head_too_large") == ((answer := flooding.answer()).status, wire.problem(answer))


@pytest.mark.parametrize("framing", [b"0\r\n" + b"x: y\r\n" * (HUGE // 6), b"1;" + b"x" * HUGE, b"0\r\nx: " + b"y" * HUGE])
def test_trailers_and_extensions_of_chunks_without_end_are_refused_too(target: Target, framing: bytes) -> None:
    with wire.to(target.process) as flooding:
        flooding.send(wire.head(target.path, "content-type: application/json", "transfer-encoding: chunked"))
        stack.eventually(lambda: not flooding.send(framing), "the connection to be cut")


@pytest.mark.parametrize("length", [60_000, 70_000])
def test_a_long_address_is_answered(target: Target, length: int) -> None:
    for path in (f"/{'x' * length}", f"/orders?user_id=u&x={'x' * length}"):
        with wire.to(target.process) as long:
            long.send(wire.head(path, method="GET"))
            assert long.answer().status in {200, 400, 404, 405}


def test_a_large_header_is_read(target: Target) -> None:
    assert get(target, headers={"x": "y" * (1 << 20)}).status_code == 200


def test_a_chunked_body_without_end_is_refused_as_too_large(target: Target) -> None:
    good = target.good()

    def endless() -> Any:
        for _ in range(4000):
            yield b" " * 65536

    answer = target.post(content=endless(), headers=good["headers"])
    assert (413, "too_large") == (answer.status_code, answer.json()["code"])


def test_a_body_that_is_announced_as_too_large_is_not_waited_for(target: Target) -> None:
    with wire.to(target.process) as boasting:
        boasting.send(wire.head(target.path, "content-type: application/json", f"content-length: {1 << 40}"))
        assert (413, "too_large") == ((answer := boasting.answer()).status, wire.problem(answer))


def test_a_body_longer_than_announced_is_another_request_and_garbage(target: Target) -> None:
    with wire.to(target.process) as lying:
        lying.send(target.request() + b"and more of it")
        assert lying.answer().status in {200, 201}


def test_a_body_shorter_than_announced_is_no_request(target: Target) -> None:
    head, _, body = target.request().partition(b"\r\n\r\n")
    with wire.to(target.process) as lying:
        lying.send(head.replace(b"content-length: ", b"content-length: 9") + b"\r\n\r\n" + body)
        assert lying.answer().status in {408, 413}  # how it ends depends on how much is announced


@pytest.mark.parametrize("packed", [gzip.compress(bytes(64 * wire.MIB)), zlib.compress(bytes(64 * wire.MIB))], ids=["gzip", "deflate"])
def test_a_compressed_body_is_not_unpacked(target: Target, packed: bytes) -> None:
    before = wire.memory_mib(target.process.pid)
    answer = target.post(content=packed, headers=target.good()["headers"] | {"content-encoding": "gzip"})
    if target.name == "dlq_router":
        assert answer.status_code == 200  # whatever it is, its bytes are a letter
    else:
        assert (415, "unsupported_content_encoding") == (answer.status_code, answer.json()["code"])
    assert wire.memory_mib(target.process.pid) < before + 32


def test_multipart_is_not_read(target: Target) -> None:
    answer = httpx.post(target.process.url + target.path, files={"file": b"x" * 1000}, timeout=stack.PATIENCE_S)
    assert answer.status_code == (200 if target.name == "dlq_router" else 415 if target.name == "orders" else 400)


@pytest.mark.parametrize("element", ["0", "{}", "[]", '{"specversion":"1.0","id":"1","type":"t","source":"s"}'])
def test_a_batch_of_millions_of_nothing_is_refused_before_it_is_read_whole(start_target: StartTarget, element: str) -> None:
    """8 MiB of `0,` are four million elements, and were as many refusals: 2 GiB of them."""
    target = start_target("order_on_assembled")
    body = ("[" + ",".join([element] * (8 * wire.MIB // (len(element) + 1) - 1)) + "]").encode()
    before = wire.memory_mib(target.process.pid)
    answer = target.post(content=body, headers={"content-type": controls.BATCH})
    assert (413, "too_large") == (answer.status_code, answer.json()["code"])
    assert wire.memory_mib(target.process.pid) < before + 64


def test_bodies_that_are_held_back_take_no_more_than_their_share_together(start_target: StartTarget) -> None:
    """Sixty connections with a MiB each, of which there is room for eight: the others are told to come again."""
    target = start_target("order_on_assembled", REQUEST_READ_TIMEOUT="30s", REQUEST_BYTES_MAX=str(8 * wire.MIB))
    before = wire.memory_mib(target.process.pid)
    held = [wire.Wire(target.process.url) for _ in range(60)]
    try:
        for each in held:
            each.send(wire.head("/", f"content-type: {controls.BATCH}", f"content-length: {8 * wire.MIB}"))
            each.send(b" " * wire.MIB)
        stack.eventually(lambda: sum(each.closing() for each in held) >= 52, "fifty-two answers")
        assert {"requests_too_large"} == {wire.problem(each.answer()) for each in held if each.closing()}
        assert wire.memory_mib(target.process.pid) < before + 96
    finally:
        for each in held:
            each.close()
    stack.eventually(lambda: target.post().status_code == 200, "it to take requests again")


def test_a_deep_body_is_refused(target: Target) -> None:
    for deep in (b"[" * 100_000, b'{"a":' * 40_000 + b"1" + b"}" * 40_000, b"[" * 100_000 + b"]" * 100_000):
        answer = target.post(content=deep, headers=target.good()["headers"])
        assert answer.status_code == 200 if target.name == "dlq_router" else answer.status_code in {400, 422}
        assert target.name == "dlq_router" or json.loads(answer.content)["detail"]

"""Letters, through the server that production runs, a real broker and a real database."""

import base64
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType

from functions.dlq_router import letter
from tests import conftest, controls, stack

FAILED_RECORD = "application/vnd.orderflow.failed-record+json"
PROBLEM = "application/problem+json"
TOPIC = "order.payment.completed"
PATH = f"/assembly-service/{TOPIC}"
SOURCE_BYTES_MAX = 1_048_576
LETTER_LIMIT = {"max.message.bytes": "2162688"}
IMPATIENT = {"DLQ_PRODUCER_TIMEOUT": "4s"}  # and yet enough for a broker that is busy
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:9/orders"
OFFSETS = itertools.count(500)  # each event of a KafkaSource has its own, and so its own letter
Letters = list[tuple[bytes | None, dict[str, Any]]]


class Router:
    """The function, its dead-letter topic, and what is on it."""

    def __init__(self, url: str, brokers: str, topic: str) -> None:
        self.brokers, self.topic = brokers, topic
        self.http = httpx.Client(base_url=url, timeout=60)

    def fail(self, path: str = PATH, **told: Any) -> httpx.Response:
        """Hand over a record as our source does."""
        return self.http.post(path, content=json.dumps(failed_record(**told)), headers={"content-type": FAILED_RECORD})

    def letters(self) -> Letters:
        """Key and value of every letter on the topic."""
        return read(self.brokers, self.topic)


def failed_record(**told: Any) -> dict[str, Any]:
    body = {
        "topic": TOPIC,
        "partition": 0,
        "offset": 7,
        "timestamp": 1_700_000_000_000,
        "key": b64(b"k"),
        "value": b64(b"{"),
        "headers": [],
    }
    return body | {"status": 422, "code": "unreadable", "detail": "no JSON", "reason": "refused", "attempts": 1} | told


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def read(brokers: str, topic: str) -> Letters:
    consumer = Consumer(
        {**stack.CLIENT, "bootstrap.servers": brokers, "group.id": "reader", "fetch.wait.max.ms": 20, "fetch.message.max.bytes": 4 << 20}
    )
    try:
        partitions = [TopicPartition(topic, partition, 0) for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions]
        left = sum(consumer.get_watermark_offsets(partition, timeout=10)[1] for partition in partitions)
        consumer.assign(partitions)
        found: Letters = []
        while left:
            records = consumer.consume(left, timeout=0.2)
            assert not [record.error() for record in records if record.error()]
            found += [(record.key(), json.loads(record.value())) for record in records]
            left -= len(records)
        return found
    finally:
        consumer.close()


def environment(brokers: str, topic: str, database: Mapping[str, str]) -> dict[str, str]:
    return {"KAFKA_BROKERS": brokers, "KAFKA_ORDER_PAYMENT_COMPLETED_DLQ_TOPIC": topic, **database}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, kafka_brokers: str, make_topic: conftest.MakeTopic) -> Iterator[stack.Process]:
    """One function for the tests that need Kafka only; its database is away."""
    env = environment(kafka_brokers, make_topic(2, LETTER_LIMIT), {"DLQ_POSTGRES_DSN": NOWHERE})
    made = stack.start_function("dlq_router", env, tmp_path_factory.mktemp("dlq_router") / "log.txt")
    yield made
    made.kill()


@pytest.fixture
def reach() -> Iterator[Callable[..., Router]]:
    """reach(process, brokers, topic) -> the function in that process."""
    made: list[Router] = []

    def make(process: stack.Process, brokers: str, topic: str) -> Router:
        made.append(Router(process.url, brokers, topic))
        return made[-1]

    yield make
    for router in made:
        router.http.close()


@pytest.fixture
def router(process: stack.Process, kafka_brokers: str, reach: Callable[..., Router]) -> Router:
    """The module's function."""
    return reach(process, kafka_brokers, process.env["KAFKA_ORDER_PAYMENT_COMPLETED_DLQ_TOPIC"])


def only(router: Router, answer: httpx.Response) -> tuple[bytes | None, dict[str, Any]]:
    """The letter that an answer speaks of, the only one of its id."""
    assert answer.status_code == 200, answer.text
    assert (answer.json()["outcome"], answer.json()["store"]) == ("done", "kafka")
    (found,) = [each for each in router.letters() if each[1]["letter_id"] == answer.json()["letter_id"]]
    return found


def event(payload: bytes | None, **attributes: str) -> httpx.Request:
    """An event as a KafkaSource hands it to its dead-letter sink."""
    base = {"specversion": "1.0", "id": controls.new_id(), "type": TOPIC, "source": "/orderflow/orders", "knativeerrordest": "http://f",
            "knativekafkapartition": "1", "knativekafkaoffset": str(next(OFFSETS)), "kafkatopic": TOPIC}  # fmt: skip
    problem = json.dumps({"code": "invalid_event", "detail": "amount: é"}).encode()
    fields = base | {"knativeerrorcode": "422", "knativeerrordata": b64(problem)} | attributes
    headers = [(f"ce-{name}".encode(), value.encode("latin-1")) for name, value in fields.items()]
    request = httpx.Request("POST", "http://x/", headers=headers, content=payload)
    if payload is None:
        request.headers.pop("content-length", None)
    return request


def hand_over(router: Router, request: httpx.Request, path: str = PATH, **headers: str) -> httpx.Response:
    sent = httpx.Request("POST", router.http.base_url.join(path), headers=request.headers.raw, content=request.content)
    sent.headers.update({"host": "router"} | headers)
    if "content-length" not in request.headers:
        sent.headers.pop("content-length", None)
    return router.http.send(sent)


def test_L02_a_cut_body_becomes_a_letter_that_holds_the_bytes(router: Router) -> None:
    """Truncated JSON is nobody's order: the letter has it byte for byte, under the record's own key."""
    cut = json.dumps(controls.paid()).encode()[:-20]
    key, told = only(router, router.fail(value=b64(cut), headers=[["a", None], ["a", b64(b"\x00")]]))
    assert key == b"k"
    assert letter.original(told) == (b"k", cut, (("a", None), ("a", b"\x00")))
    assert (told["consumer"], told["original_topic"], told["error_code"], told["original_exact"]) == (
        "assembly-service",
        TOPIC,
        "unreadable",
        True,
    )


def test_a_letters_key_is_the_order_id(router: Router) -> None:
    """So that the letters of one order lie together."""
    order = controls.paid()
    key, told = only(router, router.fail(value=b64(json.dumps(order).encode())))
    assert key == order["order_id"].encode()
    assert (told["event_id"], told["event_type"], told["order_id"]) == (order["event_id"], TOPIC, order["order_id"])


def test_O14_a_tombstone_is_a_letter_too(router: Router) -> None:
    """Null stays null, with and without a key; an empty value stays empty."""
    for key, value in ((b64(b"k1"), None), (None, None), (None, "")):
        _, told = only(router, router.fail(key=key, value=value, offset=100))
        assert (told["original_key"], told["original_value"]) == (key, value)


def test_a_kafkasource_event_becomes_a_letter(router: Router) -> None:
    """A CloudEvent comes without its key and other headers, so the letter says that it is not exact."""
    order = controls.paid()
    sent = json.dumps(order).encode()
    key, told = only(
        router, hand_over(router, event(sent, id=order["event_id"], knativekafkaoffset="12"), **{"content-type": "application/json"})
    )
    assert key == order["order_id"].encode()
    assert letter.original(told)[1] == sent
    assert ["ce_id", b64(order["event_id"].encode())] in told["original_headers"]
    assert not any("error" in name or "kafka" in name for name, _ in told["original_headers"])
    shown = ("original_partition", "original_offset", "original_exact", "error_code", "error_message", "error_status", "attempts")
    assert [told[name] for name in shown] == [1, 12, False, "invalid_event", "amount: é", 422, None]


def test_a_plain_record_comes_back_exactly_through_a_kafkasource(router: Router) -> None:
    """Without headers nothing is lost on the way; the key comes as base64, for the manifests say key-type byte-array."""
    wrapped = {"type": "dev.knative.kafka.event", "id": "partition:1/offset:12", "time": "2023-11-14T22:13:20.123Z"}
    source = f"/apis/v1/namespaces/n/kafkasources/s#{TOPIC}"
    key, told = only(router, hand_over(router, event(b"\xff\x00", source=source, key=b64(b"\x00\xfe"), **wrapped)))
    assert key == b"\x00\xfe"
    assert letter.original(told) == (b"\x00\xfe", b"\xff\x00", ())
    assert (told["original_exact"], told["original_timestamp"], told["event_id"]) == (True, 1_700_000_000_123, None)
    _, told = only(router, hand_over(router, event(b"x", source=source, kafkaheaderxtenant="acme", **wrapped)))
    assert (told["original_exact"], told["original_headers"]) == (False, [["xtenant", b64(b"acme")]])
    _, told = only(router, hand_over(router, event(None, source=source, **wrapped)))
    assert (told["original_value"], told["original_exact"]) == (None, True)


def test_O13_an_offset_above_two_to_the_31_is_kept(router: Router) -> None:
    """From a KafkaSource's header, from a structured event's text, and from our source's number."""
    big = 3_000_000_000
    _, told = only(router, hand_over(router, event(b"{}", knativekafkaoffset=str(big))))
    assert told["original_offset"] == big
    structured = json.dumps({"specversion": "1.0", "id": "e", "type": "t", "source": "/s", "knativekafkaoffset": str(big), "data": 1})
    _, told = only(router, router.http.post(PATH, content=structured, headers={"content-type": "application/cloudevents+json"}))
    assert told["original_offset"] == big
    _, told = only(router, router.fail(offset=big))
    assert told["original_offset"] == big


def test_O15_events_without_a_content_type_or_with_odd_extensions_become_letters(router: Router) -> None:
    """Neither is needed to read the event."""
    request = event(b"v", n="7", flag="true")
    assert "content-type" not in request.headers
    _, told = only(router, hand_over(router, request))
    assert ["ce_n", b64(b"7")] in told["original_headers"]


@pytest.mark.parametrize(
    "content_type", [FAILED_RECORD, "application/cloudevents+json", "application/cloudevents-batch+json", "text/plain", ""]
)
def test_what_cannot_be_read_becomes_the_letters_bytes(router: Router, content_type: str) -> None:
    """Nothing is refused: the body is kept under any media type."""
    sent = b"\xff not for us \x00 " + content_type.encode()
    _, told = only(router, router.http.post(PATH, content=sent, headers={"content-type": content_type}))
    assert letter.original(told) == (None, sent, ())
    assert (told["error_code"], told["original_exact"]) == ("unreadable_delivery", False)


def test_a_wrong_path_loses_nothing(router: Router, process: stack.Process) -> None:
    """404 holds our source's record; a KafkaSource would lose its own, so that becomes a letter of the same group."""
    for path in ("/", "/assembly-service", "/nobody/nothing", "/assembly-service/other"):
        answer = router.fail(path)
        assert (answer.status_code, answer.headers["content-type"], answer.json()["code"]) == (404, PROBLEM, "unknown_consumer")
    _, told = only(router, hand_over(router, event(b"v"), "/assembly-service/other"))
    assert told["consumer"] == "assembly-service"
    assert "wrong path" in process.text
    assert router.http.get(PATH).headers["allow"] == "POST"


def test_L06_an_error_text_of_any_kind_makes_a_letter(router: Router) -> None:
    """CRLF, NUL, emoji, HTML and 2 MB of it: bounded and escaped."""
    text = "<b>\r\nX-Injected: 1\r\n\x00\U0001f4a5</b>" * 60_000
    _, told = only(router, router.fail(detail=text, offset=61))
    assert told["error_message"].isprintable()
    assert len(json.dumps(told["error_message"])) <= 1026
    assert told["error_message"].startswith("<b>\\r\\nX-Injected")
    _, told = only(router, hand_over(router, event(b"v", knativeerrordata=b64(text.encode()[:1024]))))
    assert told["error_message"].isprintable()


def test_L06_a_record_at_the_brokers_limit_has_its_letter(router: Router, make_topic: conftest.MakeTopic) -> None:
    """The largest record that the source topic takes, with the longest error text, comes back exactly from its letter."""
    topic = make_topic(1, {"max.message.bytes": str(SOURCE_BYTES_MAX)})
    value = b"\xff" * (SOURCE_BYTES_MAX - 200)
    producer = Producer({**stack.CLIENT, "bootstrap.servers": router.brokers, "message.max.bytes": 4 << 20})
    refused: list[Any] = []
    for size in (len(value), len(value) + 400):
        producer.produce(topic, b"\xff" * size, b"key", on_delivery=lambda error, _: refused.append(error and error.name()))
        producer.flush(20)
    assert refused == [None, "MSG_SIZE_TOO_LARGE"]
    _, told = only(router, router.fail(value=b64(value), key=b64(b"key"), detail="\U0001f4a5\x00" * 300_000, offset=62))
    assert letter.original(told) == (b"key", value, ())


def test_L06_D13_a_record_that_fails_fifty_times_is_one_letter(router: Router) -> None:
    """The topic may hold it more than once; its id is the same, so it counts once."""
    with ThreadPoolExecutor(10) as sources:
        answers = list(sources.map(lambda n: router.fail(offset=63, attempts=n, detail=f"try {n}"), range(50)))
    ids = {answer.json()["letter_id"] for answer in answers}
    assert len(ids) == 1
    assert sum(told["letter_id"] in ids for _, told in router.letters()) == 50


def test_L08_each_record_has_a_letter_of_its_own(router: Router) -> None:
    """200 at once: every one is there, and counted."""
    with ThreadPoolExecutor(20) as sources:
        answers = list(sources.map(lambda n: router.fail(offset=10_000 + n, code="counted"), range(200)))
    ids = {answer.json()["letter_id"] for answer in answers}
    assert len(ids) == 200
    assert ids == {told["letter_id"] for _, told in router.letters() if told["error_code"] == "counted"}
    wanted = 'orderflow_letters_total{code="counted",consumer="assembly-service",store="kafka"} 200.0'
    assert wanted in router.http.get("/metrics").text


def test_O08_a_dead_letter_topic_may_have_fewer_partitions(router: Router) -> None:
    """Source partition 5 of 6, dead-letter topic of 2: the key decides, not the source's partition."""
    _, told = only(router, router.fail(partition=5))
    assert told["original_partition"] == 5


def test_L05_a_topic_that_is_missing_gets_no_2xx_unless_the_outbox_holds_the_letter(
    start_function: conftest.StartFunction, database: stack.TestDatabase, kafka: stack.KafkaServer, reach: Callable[..., Router]
) -> None:
    """Without PostgreSQL 503; with it the outbox row; and once the topic is there, Kafka again."""
    topic = controls.new_id("missing.")
    alone = reach(
        start_function("dlq_router", environment(kafka.brokers, topic, {"DLQ_POSTGRES_DSN": NOWHERE}) | IMPATIENT), kafka.brokers, topic
    )
    backed = reach(
        start_function("dlq_router", environment(kafka.brokers, topic, database.environment()) | IMPATIENT), kafka.brokers, topic
    )
    answer = alone.fail()
    assert (answer.status_code, answer.headers["content-type"], answer.json()["code"]) == (503, PROBLEM, "no_store")
    assert int(answer.headers["retry-after"]) >= 1
    held_in_outbox(backed.fail(), database, topic)
    kafka.make_topic(1, LETTER_LIMIT, topic)
    stack.eventually(lambda: alone.fail().status_code == 200, "the letter to be taken")
    assert {told["letter_id"] for _, told in alone.letters()} == {backed.fail().json()["letter_id"]}


def held_in_outbox(answer: httpx.Response, database: stack.TestDatabase, topic: str) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.json()["store"] == "outbox"
    row = "event_id, event_type, topic, record_key, headers, producer, status, payload"
    ((letter_id, *rest, payload),) = database.run(f"SELECT {row} FROM order_outbox_events")
    assert letter_id == answer.json()["letter_id"]
    headers = {"content-type": "application/json", "letter_id": letter_id}
    assert rest == ["orderflow.dead_letter", topic, b"k", headers, "dlq_router", "pending"]
    assert letter.original(json.loads(payload)) == (b"k", b"{", ())


def test_L05_a_topic_without_permission_gets_no_2xx_unless_the_outbox_holds_the_letter(
    start_function: conftest.StartFunction,
    database: stack.TestDatabase,
    private_kafka: Callable[..., stack.KafkaServer],
    reach: Callable[..., Router],
) -> None:
    """An ACL that forbids to write is as good as an outage."""
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    server = private_kafka({"authorizer.class.name": authorizer, "allow.everyone.if.no.acl.found": "true"})
    topic = server.make_topic(1, LETTER_LIMIT)
    to_topic = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*")
    admin = AdminClient({**stack.CLIENT, "bootstrap.servers": server.brokers})
    (granted,) = admin.create_acls([AclBinding(*to_topic, AclOperation.WRITE, AclPermissionType.DENY)]).values()
    granted.result(20)
    for store, status in (({"DLQ_POSTGRES_DSN": NOWHERE}, 503), (database.environment(), 200)):
        router = reach(start_function("dlq_router", environment(server.brokers, topic, store) | IMPATIENT), server.brokers, topic)
        answer = router.fail()
        assert answer.status_code == status, answer.text
    held_in_outbox(answer, database, topic)


def test_L05_while_kafka_is_away_the_outbox_holds_each_letter_once(
    start_function: conftest.StartFunction,
    private_kafka: Callable[..., stack.KafkaServer],
    private_postgres: Callable[..., stack.PostgresServer],
    reach: Callable[..., Router],
) -> None:
    """Kafka away: the outbox, one row however often the record fails. Both away: 503. Kafka back: Kafka."""
    server, store = private_kafka(), private_postgres()
    database = store.new_database()
    topic = server.make_topic(1, LETTER_LIMIT)
    process = start_function("dlq_router", environment(server.brokers, topic, database.environment()) | IMPATIENT)
    router = reach(process, server.brokers, topic)
    assert router.fail(offset=1).json()["store"] == "kafka"
    assert router.http.get("/ready").status_code == 200
    server.kill()
    with ThreadPoolExecutor(4) as sources:
        answers = list(sources.map(lambda _: router.fail(), range(4)))
    for answer in answers:
        held_in_outbox(answer, database, topic)
    assert router.http.get("/ready").status_code == 200
    store.stop()
    answer = router.fail()
    assert (answer.status_code, answer.json()["code"]) == (503, "no_store")
    assert router.http.get("/ready").status_code == 503
    server.start()
    stack.eventually(lambda: router.fail(offset=2).json().get("store") == "kafka", "Kafka to take letters again")
    assert {1, 2} <= {told["original_offset"] for _, told in router.letters()}


def test_sigterm_waits_for_the_letters_on_their_way(
    start_function: conftest.StartFunction, kafka_brokers: str, make_topic: conftest.MakeTopic, reach: Callable[..., Router]
) -> None:
    """Whatever was answered 2xx is on the topic, and the process exits 0."""
    topic = make_topic(1, LETTER_LIMIT)
    process = start_function("dlq_router", environment(kafka_brokers, topic, {"DLQ_POSTGRES_DSN": NOWHERE}))
    router = reach(process, kafka_brokers, topic)

    def fail(offset: int) -> str | None:
        try:
            return str(router.fail(offset=offset).json()["letter_id"])
        except httpx.TransportError:
            return None

    with ThreadPoolExecutor(8) as sources:
        sent = [sources.submit(fail, offset) for offset in range(400)]
        stack.eventually(lambda: sum(each.done() for each in sent) >= 40, "some letters")
        process.send(stack.signal.SIGTERM)
        safe = {each.result() for each in sent} - {None}
    assert process.wait() == 0
    assert safe <= {told["letter_id"] for _, told in router.letters()}
    assert len(safe) >= 40


def test_it_runs_under_the_functions_framework_command(
    start_process: conftest.StartProcess, process: stack.Process, kafka_brokers: str, reach: Callable[..., Router]
) -> None:
    """`functions-framework --asgi` answers as production does."""
    (port,) = stack.child.free_ports(1)
    command = [f"{stack.home.CHECKOUT}/.venv/bin/functions-framework", "--asgi", "--target=handle", "--source=functions/dlq_router/main.py"]
    own = start_process([*command, "--host=127.0.0.1", f"--port={port}"], process.env, url=f"http://127.0.0.1:{port}")
    own.wait_ready()
    router = reach(own, kafka_brokers, process.env["KAFKA_ORDER_PAYMENT_COMPLETED_DLQ_TOPIC"])
    _, told = only(router, router.fail(offset=9_999_999))
    assert told["original_offset"] == 9_999_999
    assert own.stop() == 0


def test_a_letter_needs_the_token_where_there_is_one(start_function: conftest.StartFunction, process: stack.Process) -> None:
    """401 without it, for anyone could fill the topic."""
    url = start_function("dlq_router", process.env | {"DELIVERY_TOKEN": "t" * 32}).url
    assert httpx.post(url + PATH, content=b"x", timeout=30).status_code == 401
    assert httpx.post(url + PATH, content=b"x", headers={"authorization": f"Bearer {'t' * 32}"}, timeout=30).status_code == 200

"""The archive: every letter in S3, byte for byte, whatever stops in between. A real S3 server (moto), a real broker."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import pytest
import typer
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from moto.server import ThreadedMotoServer

from ops import child
from ops.dlq import archive, archive_line, archive_store, archiver
from shared import config, errors
from tests import conftest, stack
from tests.ops import commands

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
FOLLOW = [sys.executable, "-c", "import typer; from ops.dlq import archive; typer.run(archive.archive)", "--follow", "--every", "200ms"]
app = typer.Typer()
app.command()(archive.archive)


@dataclass
class Shelf:
    """Dead-letter topics of a test's own, and the bucket to which they are archived."""

    brokers: str
    topics: list[str]
    endpoint: str
    bucket: str = field(default_factory=lambda: f"letters-{uuid.uuid4().hex[:12]}")
    group: str = field(default_factory=lambda: f"archive-{uuid.uuid4().hex[:12]}")

    @property
    def topic(self) -> str:
        return self.topics[0]

    @property
    def env(self) -> dict[str, str]:
        names = ("KAFKA_NOTIFICATION_DLQ_TOPIC", "KAFKA_ORDER_PAYMENT_COMPLETED_DLQ_TOPIC", "KAFKA_ORDER_ASSEMBLY_COMPLETED_DLQ_TOPIC")
        kafka = dict(zip(names, self.topics, strict=True)) | {"KAFKA_BROKERS": self.brokers, archiver.GROUP_SETTING: self.group}
        return kafka | KEYS | {"DLQ_ARCHIVE_BUCKET": self.bucket, "DLQ_ARCHIVE_ENDPOINT": self.endpoint}

    @property
    def settings(self) -> config.Settings:
        overrides = {name: value for name, value in self.env.items() if name.startswith("KAFKA_") and name != "KAFKA_BROKERS"}
        return config.Settings(
            kafka_brokers=self.brokers, overrides=overrides, dlq_archive_bucket=self.bucket, dlq_archive_endpoint=self.endpoint
        )

    @property
    def s3(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
        )

    def write(self, *values: bytes | None, key: bytes | None = b"order", at: datetime | None = None, partition: int = 0) -> None:
        """Put records on the first dead-letter topic; they are there when this returns."""
        producer = Producer(stack.CLIENT | {"bootstrap.servers": self.brokers, "message.max.bytes": 4 << 20})
        reports: list[object] = []
        for value in values:
            producer.produce(
                self.topic, value, key, partition, on_delivery=lambda error, _: reports.append(error),
                timestamp=int(at.timestamp() * 1000) if at else 0,
            )  # fmt: skip
        assert producer.flush(stack.PATIENCE_S) == 0
        assert reports == [None] * len(values)

    def run(self, *arguments: str, **env: str) -> commands.Ran:
        return commands.run(app, *arguments, env=self.env | env)

    def objects(self) -> list[str]:
        return [found["Key"] for found in self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", ())]

    def read(self, **filters: Any) -> list[archive_line.Archived]:
        return list(archive.read_archive(self.settings, **filters))

    def committed(self, offset: int | None = None, metadata: str = "") -> int:
        """The group's place on the first topic, set to `offset` if there is one."""
        consumer = Consumer(stack.CLIENT | {"bootstrap.servers": self.brokers, "group.id": self.group})
        try:
            if offset is not None:
                consumer.commit(offsets=[TopicPartition(self.topic, 0, offset, metadata)], asynchronous=False)
            return consumer.committed([TopicPartition(self.topic, 0)], timeout=stack.PATIENCE_S)[0].offset
        finally:
            consumer.close()


def letter(n: int, consumer: str = "notification-payment", **more: Any) -> bytes:
    """A letter as dlq_router writes it, as far as the archive looks into it."""
    return json.dumps({"letter_id": f"letter-{consumer}-{n}", "consumer": consumer, "error_message": "ünreadable"} | more).encode()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Where an S3 server is."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def unused_address() -> Iterator[str]:
    """host:port where nothing answers: the port is held, and nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*held.getsockname())


@pytest.fixture(autouse=True)
def credentials() -> Iterator[None]:
    """What boto3 finds in the environment of this process."""
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    yield
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def shelf(kafka_brokers: str, make_topic: conftest.MakeTopic, s3: str) -> Shelf:
    """Three fresh topics, a fresh group, a fresh bucket."""
    made = Shelf(kafka_brokers, [make_topic(2, {"max.message.bytes": "4194304", "retention.ms": "-1"}), make_topic(), make_topic()], s3)
    made.s3.create_bucket(Bucket=made.bucket)
    return made


def test_every_record_comes_back_byte_for_byte_whatever_it_is(shelf: Shelf) -> None:
    odd = [None, b"", b"{", b"\x00\xff\n", b'{"a":\n1}', b"[1]", b'{"letter": 1, "consumer": "../x"}', b' {"consumer": 7} ', b"1" * 5000]
    values = [letter(1), *odd, letter(2, consumer="notification-assembly")]
    for key in (None, b"", b"\x00\xfe"):
        shelf.write(*values, key=key)

    ran = shelf.run("--json")

    assert {"letters": 33, "complete": True} == {name: ran.json()[name] for name in ("letters", "complete")}
    found = {(each.partition, each.offset): (each.topic, each.key, each.value) for each in shelf.read(repeats=True)}
    assert {
        (0, n): (shelf.topic, key, value) for n, (key, value) in enumerate((k, v) for k in (None, b"", b"\x00\xfe") for v in values)
    } == found


def test_objects_are_named_by_consumer_day_topic_partition_and_first_offset(shelf: Shelf) -> None:
    first, second = datetime(2026, 3, 1, 23, 59, tzinfo=UTC), datetime(2026, 3, 2, 0, 1, tzinfo=UTC)
    shelf.write(letter(1), letter(2, "notification-assembly"), at=first)
    shelf.write(letter(3), b"who knows whose", at=second)

    ran = shelf.run()

    assert (0, f"archived 4 letters in 4 objects of s3://{shelf.bucket}\n") == (ran.code, ran.err)
    assert [
        f"notification-assembly/2026-03-01/{shelf.topic}-0-1.jsonl.gz",
        f"notification-payment/2026-03-01/{shelf.topic}-0-0.jsonl.gz",
        f"notification-payment/2026-03-02/{shelf.topic}-0-2.jsonl.gz",
        f"unknown/2026-03-02/{shelf.topic}-0-3.jsonl.gz",
    ] == shelf.objects()


def test_the_next_run_goes_on_where_the_last_ended(shelf: Shelf) -> None:
    shelf.write(letter(1), letter(2))
    assert shelf.run("--json").json()["letters"] == 2
    assert {"letters": 0, "objects": 0} == {name: shelf.run("--json").json()[name] for name in ("letters", "objects")}

    shelf.write(letter(3))

    assert shelf.run("--json").json()["letters"] == 1
    assert ["letter-notification-payment-1", "letter-notification-payment-2", "letter-notification-payment-3"] == [
        each.letter_id for each in shelf.read()
    ]


class Crashed(Exception):
    """The process is gone."""


class Crashing(archive_store.Store):
    """Is gone right after S3 confirmed an object."""

    def put(self, key: str, body: bytes, facts: Mapping[str, str], *, end: int) -> archive_line.Written:
        super().put(key, body, facts, end=end)
        raise Crashed


def test_L03_a_crash_between_s3_and_the_commit_repeats_the_object_and_loses_no_line(shelf: Shelf) -> None:
    shelf.write(letter(1), letter(2))
    with pytest.raises(Crashed):
        archiver.Archiver(shelf.settings, Crashing(shelf.settings), lambda *_: None).once(lambda *_: None)
    before = shelf.objects()
    shelf.write(letter(3))  # so that the batch ends elsewhere

    assert shelf.run("--json").json()["letters"] == 3

    assert before == shelf.objects()
    assert [0, 1, 2] == [each.offset for each in shelf.read(repeats=True)]
    assert shelf.committed() == 3


def test_an_object_is_never_replaced_by_one_that_holds_less(shelf: Shelf) -> None:
    store = archive_store.Store(shelf.settings)
    key, facts = f"c/2026-03-01/{shelf.topic}-0-0.jsonl.gz", {"topic-id": "one"}

    outcomes = [store.put(key, body, facts, end=end) for body, end in ((b"two", 2), (b"nine", 9), (b"four", 4), (b"nine", 9))]

    assert ["written", "repeated", "kept", "repeated"] == outcomes
    assert shelf.s3.get_object(Bucket=shelf.bucket, Key=key)["Body"].read() == b"nine"


class Overtaken(archive_store.Store):
    """Looks whether an object is there, then is held up until another process has written it."""

    other: Callable[[], object] | None = None

    def _head(self, key: str) -> Mapping[str, Any] | None:
        found = super()._head(key)
        if self.other is not None:
            other, self.other = self.other, None
            other()
        return found


@pytest.mark.parametrize("there", [False, True], ids=["a new object", "one that is there"])
def test_a_process_that_was_held_up_undoes_nothing_of_its_successor(shelf: Shelf, there: bool) -> None:
    late, successor = Overtaken(shelf.settings), archive_store.Store(shelf.settings)
    key, facts = f"c/2026-03-01/{shelf.topic}-0-0.jsonl.gz", {"topic-id": "one"}
    if there:
        successor.put(key, b"one", facts, end=1)
    late.other = lambda: successor.put(key, b"nine", facts, end=9)

    assert late.put(key, b"four", facts, end=4) == "kept"
    assert shelf.s3.get_object(Bucket=shelf.bucket, Key=key)["Body"].read() == b"nine"


def test_a_topic_that_is_created_again_takes_no_object_of_the_old_one(kafka: stack.KafkaServer, shelf: Shelf) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    shelf.write(letter(1), letter(2), at=day)
    assert shelf.run("--json").json()["letters"] == 2
    client = AdminClient(stack.CLIENT | {"bootstrap.servers": shelf.brokers})
    client.delete_topics([shelf.topic])[shelf.topic].result(stack.PATIENCE_S)
    stack.eventually(lambda: shelf.topic not in client.list_topics(timeout=5).topics, "the topic to be gone")
    kafka.make_topic(2, {"retention.ms": "-1"}, shelf.topic)
    shelf.write(letter(3), letter(4), letter(5), at=day)
    shelf.committed(2, "topic-id=of-the-old-one")  # not every broker forgets a group's place together with its topic

    assert shelf.run("--json").json()["letters"] == 3

    assert {f"letter-notification-payment-{n}" for n in (1, 2, 3, 4, 5)} == {each.letter_id for each in shelf.read()}
    assert [f"{shelf.topic}-0-0"] * 2 == [re.sub(r"\..{22}\.jsonl|\.jsonl", "", key).split("/")[2][:-3] for key in shelf.objects()]


def test_while_s3_is_away_one_run_fails_in_a_sentence_and_commits_nothing(shelf: Shelf, unused_address: str) -> None:
    shelf.write(letter(1))

    ran = shelf.run(DLQ_ARCHIVE_ENDPOINT=f"http://{unused_address}")

    assert (1, 1) == (ran.code, ran.err.count("error: "))
    assert f"S3 at http://{unused_address} cannot be used" in ran.err
    assert shelf.committed() < 0
    assert shelf.run("--json").json()["letters"] == 1


def test_a_bucket_that_is_missing_is_named_and_made_on_request(shelf: Shelf) -> None:
    shelf.write(letter(1))
    shelf.bucket = f"missing-{uuid.uuid4().hex[:8]}"

    ran = shelf.run()
    assert (1, True) == (ran.code, f"there is no bucket {shelf.bucket}" in ran.err)

    assert shelf.run("--create-bucket", "--json").json()["letters"] == 1
    assert shelf.run("--create-bucket", "--json").json()["letters"] == 0
    assert len(shelf.objects()) == 1


def test_without_a_bucket_the_command_says_which_setting_is_missing(shelf: Shelf) -> None:
    ran = shelf.run(DLQ_ARCHIVE_BUCKET="")

    assert (2, True) == (ran.code, "DLQ_ARCHIVE_BUCKET: is needed" in ran.err)


def test_on_a_laptop_localstack_is_found_without_any_setting(shelf: Shelf) -> None:
    shelf.write(letter(1))

    ran = shelf.run("--json", DLQ_ARCHIVE_ENDPOINT="", LOCALSTACK_HOST=shelf.endpoint.removeprefix("http://"))

    assert ran.json()["letters"] == 1
    assert len(shelf.objects()) == 1


def test_aws_own_addresses_are_used_elsewhere_or_when_asked_for(shelf: Shelf) -> None:
    docker = shelf.settings.model_copy(update={"app_env": "docker", "dlq_archive_endpoint": None})
    asked = shelf.settings.model_copy(update={"dlq_archive_endpoint": "aws"})

    assert [True, True] == [archive_store.Store(settings).endpoint.endswith("amazonaws.com") for settings in (docker, asked)]


def test_large_letters_are_split_so_that_memory_stays_bounded(shelf: Shelf) -> None:
    shelf.write(*(letter(n, original_value="A" * (2 << 20)) for n in range(20)))

    assert shelf.run("--json").json()["objects"] == 3

    assert [f"{shelf.topic}-0-{first}.jsonl.gz" for first in (0, 16, 8)] == [key.split("/")[2] for key in shelf.objects()]
    assert [*range(20)] == [each.offset for each in shelf.read()]


def test_the_archive_is_read_by_consumer_time_and_prefix_each_letter_once(shelf: Shelf) -> None:
    days = [datetime(2026, 3, day, 12, tzinfo=UTC) for day in (1, 2, 3)]
    for n, day in enumerate(days):
        shelf.write(letter(n), letter(n, "notification-assembly"), letter(n), at=day)
    assert shelf.run("--json").json()["letters"] == 9
    shelf.s3.put_object(Bucket=shelf.bucket, Key="notification-payment/readme.txt", Body=b"not ours")

    def found(**filters: Any) -> list[str]:
        return [(each.letter_id or "").removeprefix("letter-notification-") for each in shelf.read(**filters)]

    assert ["assembly-0", "assembly-1", "assembly-2", "payment-0", "payment-1", "payment-2"] == found()
    assert ["payment-0", "payment-1", "payment-2"] == found(consumer="notification-payment")
    assert ["payment-1", "payment-1", "payment-2", "payment-2"] == found(consumer="notification-payment", since=days[1], repeats=True)
    assert ["assembly-0"] == found(consumer="notification-assembly", until=days[1] - timedelta(hours=13))
    assert ["payment-2"] == found(prefix="notification-payment/2026-03-03/")


def test_a_broken_object_is_named(shelf: Shelf) -> None:
    key = f"c/2026-03-01/{shelf.topic}-0-0.jsonl.gz"
    shelf.s3.put_object(Bucket=shelf.bucket, Key=key, Body=b"no gzip")

    with pytest.raises(errors.Refused, match=key):
        shelf.read()


def test_following_waits_for_s3_shows_that_it_does_and_ends_in_good_order(shelf: Shelf, start_process: conftest.StartProcess) -> None:
    s3_port, metrics_port = child.free_ports(2)  # nothing else is given them meanwhile
    shelf.write(letter(1))
    shelf.endpoint = f"http://127.0.0.1:{s3_port}"
    url = f"http://127.0.0.1:{metrics_port}"
    process = start_process([*FOLLOW, "--metrics-port", str(metrics_port)], shelf.env, url)
    process.wait_ready("/metrics")

    def metric(name: str) -> float:
        match = re.search(rf"^{name} (\S+)$", httpx.get(f"{url}/metrics", timeout=30).text, re.MULTILINE)
        return float(match[1]) if match else 0.0

    stack.eventually(lambda: metric("orderflow_archive_failing_seconds") > 0, "the outage in the metrics")
    assert "archiving is delayed; nothing is lost" in process.text
    shelf.write(letter(2))
    stack.eventually(
        lambda: f'orderflow_archive_behind{{topic="{shelf.topic}"}} 2.0' in httpx.get(f"{url}/metrics", timeout=30).text, "two behind"
    )
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=s3_port, verbose=False)
    server.start()
    try:
        stack.eventually(lambda: metric("orderflow_archive_letters_total") == 2, "both letters in S3")
        stack.eventually(lambda: metric("orderflow_archive_failing_seconds") == 0, "the end of the outage in the metrics")
        stack.eventually(
            lambda: f'orderflow_archive_behind{{topic="{shelf.topic}"}} 0.0' in httpx.get(f"{url}/metrics", timeout=30).text, "none behind"
        )
        assert process.stop() == 0
        assert ["letter-notification-payment-1", "letter-notification-payment-2"] == [each.letter_id for each in shelf.read()]
    finally:
        server.stop()
    assert shelf.committed() == 2


def test_L03_of_two_followers_one_is_killed_and_nothing_is_lost(shelf: Shelf, start_process: conftest.StartProcess) -> None:
    followers = [start_process(FOLLOW, shelf.env) for _ in range(2)]
    written: list[bytes] = []

    def more(count: int) -> None:
        for _ in range(count):
            written.append(letter(len(written)))
            shelf.write(written[-1], partition=len(written) % 2)

    def arrived() -> bool:
        return {each.value for each in shelf.read()} == set(written)

    more(6)
    stack.eventually(arrived, "the first letters")
    more(4)
    followers[0].kill()
    more(6)

    stack.eventually(arrived, "every letter, from the one that is left")
    assert followers[1].stop() == 0


def test_a_line_of_the_archive_is_json_that_other_tools_read(shelf: Shelf) -> None:
    line = archive_line.write(archive_line.of_record("t", 1, 2, timestamp_ms=3, key=b"k", value=letter(1)))

    read = json.loads(line)

    assert ("t", 1, 2, 3, "letter-notification-payment-1") == (
        *(read[f"dlq_{name}"] for name in ("topic", "partition", "offset", "timestamp")), read["letter"]["letter_id"],
    )  # fmt: skip
    assert base64.b64decode(read["dlq_key"]) == b"k"


def test_other_commands_do_not_load_boto3() -> None:
    loaded = "import sys; from ops.dlq import archive; print('boto3' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "False\n"

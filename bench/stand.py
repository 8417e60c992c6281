"""A broker and a database server of the run's own, in a folder that goes with it. Every commit is durable, as in production."""

import contextlib
import itertools
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.dataset import CLIENT, OCCURRED_AT, Dataset, produce
from bench.processes import BenchError, Process, eventually
from ops import child, home, kafka, migrations, postgres, roles

Say = Callable[[str], None]

# For every row alike: room for the working set, and no checkpoint in the middle of one row and not of another.
POSTGRES = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum_naptime": "10s",
}
_SQL_S = 1800


class Stand:
    """The servers of one run, the topics that are loaded, and the databases that rows begin with."""

    def __init__(self, folder: Path, say: Say, more: Mapping[str, str] | None = None) -> None:
        self.folder, self.say = folder, say
        self.watch: Callable[[Process], None] = lambda _process: None  # is told of each process of ours that is started
        self._templates: dict[tuple[Dataset, int, str], str] = {}
        self._topics: dict[tuple[Dataset, int], str] = {}
        port, controller_port, database_port = child.free_ports(3)
        self._broker = kafka.Broker(home.folder(), folder / "kafka", port, controller_port)
        self._broker.prepare(say)
        self._server = postgres.Server(folder / "postgres", database_port, POSTGRES | dict(more or {}))
        self._server.prepare(say)
        self.kafka = Process("kafka", self._broker.command(), kafka.environment(), folder, guarded=True)
        self.postgres = Process("postgres", self._server.command(), {}, folder, guarded=True, cwd="/")
        self._numbers = itertools.count(1)

    def wait_ready(self) -> None:
        """Wait until both servers answer."""
        postgres.wait_ready(self._server, lambda: _runs(self.postgres))
        kafka.wait_ready(self.brokers, lambda: _runs(self.kafka))
        self._server.set_up()
        self._admin = AdminClient(CLIENT | {"bootstrap.servers": self.brokers})

    @property
    def brokers(self) -> str:
        """host:port."""
        return self._broker.address

    def stop(self) -> None:
        """End both."""
        self.kafka.stop(kafka.STOP_SIGNAL)
        self.postgres.stop(postgres.STOP_SIGNAL)

    def process(self, name: str, command: Sequence[str], env: Mapping[str, str], url: str = "") -> Process:
        """Start a process that is measured, or that helps to measure."""
        started = Process(name, command, env, self.folder, url=url)
        self.watch(started)
        return started

    # --- topics --------------------------------------------------------------------------------------------------------

    def topic(self, partitions: int = 8, more: Mapping[str, str] | None = None) -> str:
        """A new, empty topic."""
        name = f"bench.{uuid.uuid4().hex[:12]}"
        self._admin.create_topics([NewTopic(name, partitions, 1, config=dict(more or {}))])[name].result(60)
        reader = Consumer(CLIENT | {"bootstrap.servers": self.brokers, "group.id": "bench-topics"})
        places = [TopicPartition(name, n) for n in range(partitions)]
        eventually(lambda: all(_answers(reader, place) for place in places), f"topic {name}", 60)
        reader.close()
        return name

    def loaded_topic(self, dataset: Dataset, partitions: int = 8) -> str:
        """A topic with the events of `dataset`, written at the first call. Every row reads it in a group of its own."""
        key = dataset, partitions
        if key not in self._topics:
            self.say(f"writing {dataset.count} events to a topic of {partitions} partitions")
            name = self.topic(partitions)
            produce(self.brokers, name, dataset)
            self._topics[key] = name
        return self._topics[key]

    # --- databases -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def database(self, dataset: Dataset, old_rows: int = 0, filled: str = "") -> Iterator[str]:
        """The name of a fresh database in which the orders of `dataset` are paid, and `old_rows` more orders and inbox rows lie.

        `filled` are statements that fill it further.

        Each is a copy of the same files, so that every row begins with the same pages, statistics and plans.
        """
        name = f"bench_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {self._template(dataset, old_rows, filled)} OWNER {postgres.OWNER} STRATEGY FILE_COPY")
        self.sql("CHECKPOINT")
        try:
            yield name
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def dsn(self, database: str, role: str = postgres.OWNER) -> str:
        """Where `role` connects."""
        passwords = {role.name: role.password({}) for role in roles.read()} | {postgres.OWNER: postgres.OWNER_PASSWORD}
        return postgres.dsn(self._server.port, role, passwords[role], database)

    def environment(self, process: str, database: str = "") -> dict[str, str]:
        """The settings of a process of ours: the broker, and with `database` the DSN of its own role."""
        found = {"KAFKA_BROKERS": self.brokers, "PYTHONUNBUFFERED": "1", "LOG_LEVEL": "warning"}
        if database:
            role = next(role for role in roles.read() if role.process == process)
            found[f"{role.consumer.upper()}_POSTGRES_DSN"] = self.dsn(database, role.name)
        return found

    def sql(self, statement: str, database: str = "postgres", rows: Iterable[str] | None = None) -> list[list[str]]:
        """The rows of a statement of the superuser's, columns as text. `rows` go to `COPY … FROM STDIN`."""
        command = [str(postgres.programs() / "psql"), "-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1"]
        with tempfile.TemporaryFile("w+", encoding="utf-8") as handed:
            handed.writelines(f"{row}\n" for row in rows or ())
            handed.seek(0)
            done = subprocess.run(
                [*command, "-d", self._server.superuser_dsn(database), "-c", statement],
                stdin=handed, capture_output=True, text=True, check=False, env=child.environment(), timeout=_SQL_S,
            )  # fmt: skip
        if done.returncode:
            raise BenchError(f"{statement[:200]}: {done.stderr.strip()}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def _template(self, dataset: Dataset, old_rows: int, filled: str) -> str:
        key = dataset, old_rows, filled
        if key not in self._templates:
            self.say(f"making a database of {dataset.count + old_rows} orders")
            name = f"template_{next(self._numbers)}"
            self.sql(f"CREATE DATABASE {name} OWNER {postgres.OWNER}")
            migrations.upgrade(self.dsn(name), create_roles=True)
            orders = (f"{order_id}\tuser-{n}\tpaid" for n, order_id in enumerate(dataset.order_ids()))
            self.sql("COPY orders (id, user_id, status) FROM STDIN", name, orders)
            if old_rows:
                made = "uuidv7(created_at - now())" if dataset.timed else "gen_random_uuid()"
                self.sql(_OLD_ROWS.format(rows=old_rows, made=made, before=OCCURRED_AT), name)
            if filled:
                self.sql(filled, name)
            self.sql("VACUUM ANALYZE", name)
            self._templates[key] = name
        return self._templates[key]


_OLD_ROWS = """
INSERT INTO orders (id, user_id, status, created_at)
SELECT {made}, 'old-' || n % 100000, 'assembled', created_at
FROM generate_series({rows}, 1, -1) AS n, LATERAL (SELECT timestamptz '{before}' - n * interval '1 second' AS created_at) AS moment;
INSERT INTO order_inbox_events (event_id, event_type, occurred_at, order_id, received_at)
SELECT {made}, 'order.assembly.completed', created_at, id, created_at FROM orders WHERE status = 'assembled';
"""


class Offsets:
    """What a consumer group has committed of a topic."""

    def __init__(self, stand: Stand, group: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer(CLIENT | {"bootstrap.servers": stand.brokers, "group.id": group, "enable.auto.commit": False})
        self._wanted = [TopicPartition(topic, n) for n in range(partitions)]
        self._found = 0

    def committed(self) -> int:
        """The records before the committed offsets, as last heard: while a group finds its coordinator nothing new is heard."""
        with contextlib.suppress(KafkaException):
            self._found = sum(max(0, found.offset) for found in self._consumer.committed(self._wanted, timeout=10))
        return self._found

    def close(self) -> None:
        """Let go."""
        self._consumer.close()


@contextlib.contextmanager
def running(say: Say, more: Mapping[str, str] | None = None) -> Iterator[Stand]:
    """A stand until the end of the block, its database with settings beside ours; its data are removed then."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=home.folder()))
    folder.chmod(0o755)  # PostgreSQL runs as another account where we are root
    stand = Stand(folder, say, more)
    try:
        stand.wait_ready()
        yield stand
    finally:
        stand.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(reader: Consumer, place: TopicPartition) -> bool:
    """Whether the leader of a partition that was just made knows that it is."""
    try:
        reader.get_watermark_offsets(place, timeout=10)
    except KafkaException:
        return False
    return True


def _runs(process: Process) -> bool:
    try:
        process.check()
    except BenchError:
        return False
    return True

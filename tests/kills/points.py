"""Every step at which a process may die, and what is there after a death right before it and right after it.

A table is the way of one piece of work through one process. Its rows are its steps in the order in which they are passed; a step is named
by what runs it: `module:function`, `module:Class.method`, or `sql:` and a part of a statement's text. `python -m tests.kills.dying` wraps
exactly these in the real program. That a table leaves out no statement, and that each of its steps is really passed, is tested beside it.

The last two columns are what a test finds before anything is started again. The words are those of the table's test, which says for each
what must come of it: that nothing is lost and nothing is done twice.
"""

from typing import Literal, NamedTuple

When = Literal["before", "after"]


class Step(NamedTuple):
    """A row. With `since` it counts in a thread only after that thread has passed the step of that name.

    What is `aside` runs beside the answer, so it may be passed for an earlier piece of work still, and an answer may have gone out.
    """

    name: str
    target: str
    before: str
    after: str
    since: str = ""
    aside: bool = False


class Point(NamedTuple):
    """A place to die at."""

    when: When
    step: Step

    @property
    def left(self) -> str:
        """What is there after a death here."""
        return self.step.before if self.when == "before" else self.step.after

    @property
    def may_have_answered(self) -> bool:
        """Whether the caller may have its answer by then."""
        return self.step.aside or (self.when, self.step.name) == ("after", "response")

    def __str__(self) -> str:
        return f"{self.when} {self.step.name}"


READ, RESPONSE, SETTLE = "shared.server:read_body", "starlette.responses:Response.__call__", "shared.grouping:settle"
COMMIT, NOTIFY = "sql:COMMIT", "sql:NOTIFY order_outbox_events"
PUMP, RELAY = "connectors.kafka_source", "connectors.outbox_relay"

TABLES: dict[str, tuple[Step, ...]] = {
    # A delivery to a function whose whole effect is one transaction (assembly_on_payment), as a batch. again: nothing of it is there.
    # kept: inbox row and staged event are.
    "pipe": (
        Step("read", READ, "again", "again"),
        Step("settle", SETTLE, "again", "kept"),
        Step("claim", "shared.inbox:Inbox.claim", "again", "again"),
        Step("handler", "shared.delivery:_handled", "again", "again"),
        Step("stage", "shared.outbox:stage", "again", "again"),
        Step("commit", COMMIT, "again", "kept", since="claim"),
        Step("hint", NOTIFY, "kept", "kept", aside=True),
        Step("hint's commit", COMMIT, "kept", "kept", since="hint", aside=True),
        Step("answer", "shared.answer:batch", "kept", "kept"),
        Step("response", RESPONSE, "kept", "kept"),
    ),
    # The same where the order has an open letter and the consumer parks. again: nothing is there. parked: the event is.
    "parking": (
        Step("aside", "shared.parking:Parking.aside", "again", "again"),
        Step("park", "sql:INSERT INTO parked_events AS p", "again", "again"),
        Step("commit", COMMIT, "again", "parked", since="park"),
        Step("answer", "shared.answer:single", "parked", "parked"),
    ),
    # A delivery to notify, whose effect lies outside the database. unclaimed: nothing is there. unsent: a lease, and no message.
    # sent: a lease, and a message whose outcome nobody wrote down. marked: a message, and a row that says so.
    "lease": (
        Step("read", READ, "unclaimed", "unclaimed"),
        Step("claim", "sql:INSERT INTO notification_inbox_events AS held", "unclaimed", "unclaimed"),
        Step("claim's commit", COMMIT, "unclaimed", "unsent", since="claim"),
        Step("effect", "functions.notify.telegram:Telegram.send", "unsent", "sent"),
        Step("mark", "sql:SET status = 'sent', processed_at", "sent", "sent"),
        Step("mark's commit", COMMIT, "sent", "marked", since="mark"),
        Step("answer", "shared.answer:single", "marked", "marked"),
        Step("response", RESPONSE, "marked", "marked"),
    ),
    # The same when Telegram did not take the message. held: the lease lives on. free: it was given back.
    "give back": (
        Step("give back", "sql:SET lease_ends_at = clock_timestamp(), attempts = 0", "held", "held"),
        Step("give back's commit", COMMIT, "held", "free", since="give back"),
    ),
    # A round of the relay over three rows of one key: the records that the topic has by then; marked: all, and the rows say so.
    "relay": (
        Step("round", f"{RELAY}.relay:_Round.run", "0", "marked"),
        Step("claim", f"{RELAY}.rows:Claims.take", "0", "0"),
        Step("next due", f"{RELAY}.rows:next_due_s", "0", "0"),
        Step("topics", f"{RELAY}.topics:Topics.look", "0", "0"),
        Step("publish", f"{RELAY}.publisher:Publisher.publish", "0", "3"),
        Step("produce", f"{RELAY}.publisher:Publisher._produce", "0", "0 or 1"),
        Step("report", f"{RELAY}.publisher:Publisher._report", "1", "1"),
        Step("mark", f"{RELAY}.rows:mark", "3", "3"),
        Step("commit", COMMIT, "3", "marked", since="mark"),
    ),
    # A record on its way through the source to a function. unread: the function has not had it. handled: it has, and Kafka does not know.
    # committed: Kafka does.
    "source": (
        Step("assign", f"{PUMP}.assignment:Assignment.on_assign", "unread", "unread"),
        Step("hand over", f"{PUMP}.consumer:Reader._hand_over", "unread", "unread"),
        Step("accept", f"{PUMP}.pump:Pump.accept", "unread", "unread"),
        Step("deliver", f"{PUMP}.sink:Sink.deliver", "unread", "handled"),
        Step("verdict", f"{PUMP}.verdicts:Verdicts.each", "handled", "handled or committed"),
        Step("settle", f"{PUMP}.partition:Partition.settle", "handled", "handled or committed"),
        Step("commit", f"{PUMP}.consumer:Consumer.commit", "handled", "handled or committed"),
        Step("commit's report", f"{PUMP}.commits:Commits.on_commit", "committed", "committed"),
        Step("leave", f"{PUMP}.consumer:Consumer.close", "committed", "committed"),
    ),
    # A record that the function refuses. refused: it has no letter. written: its letter is safe, and Kafka does not know.
    "source's letter": (
        Step("letter", f"{PUMP}.letter:Letters.start", "refused", "refused"),
        Step("post", f"{PUMP}.letter:Letters._post", "refused", "written"),
        Step("lettered", f"{PUMP}.verdicts:Verdicts._lettered", "written", "written or written and committed"),
    ),
    # A failed record at dlq_router. none: it has no letter. written: its topic has it. indexed: so has the index.
    "router": (
        Step("read", READ, "none", "none"),
        Step("write", "functions.dlq_router.letter:write", "none", "none"),
        Step("send", "functions.dlq_router.kafka:Kafka.send", "none", "written"),
        Step("report", "functions.dlq_router.kafka:_tell", "written", "written"),
        Step("offer", "functions.dlq_router.index:Index.offer", "written", "written"),
        Step("response", RESPONSE, "written or indexed", "written or indexed"),
        Step("index", "sql:INSERT INTO dlq_letters", "written", "written", aside=True),
        Step("index's commit", COMMIT, "written", "indexed", since="index", aside=True),
    ),
    # The same where the consumer parks: the index comes before the answer.
    "router of who parks": (Step("index first", "functions.dlq_router.index:Index.write", "written", "indexed"),),
    # The same while Kafka is away. none: the letter is nowhere. staged: the outbox has it.
    "router without Kafka": (
        Step("stage", "shared.outbox:stage_record", "none", "none"),
        Step("commit", COMMIT, "none", "staged", since="stage"),
        Step("hint", NOTIFY, "staged", "staged", aside=True),
        Step("hint's commit", COMMIT, "staged", "staged", since="hint", aside=True),
        Step("response", RESPONSE, "staged", "staged"),
    ),
    # An order with an Idempotency-Key. again: nothing is there. kept: the order, its event and its key are.
    "orders": (
        Step("read", READ, "again", "again"),
        Step("settle", SETTLE, "again", "kept"),
        Step("place", "functions.orders.store:place", "again", "again"),
        Step("key", "functions.orders.idempotency:claim", "again", "again"),
        Step("insert", "sql:INSERT INTO orders (id, user_id, status)", "again", "again"),
        Step("stage", "shared.outbox:stage", "again", "again"),
        Step("commit", COMMIT, "again", "kept", since="insert"),
        Step("hint", NOTIFY, "kept", "kept", aside=True),
        Step("hint's commit", COMMIT, "kept", "kept", since="hint", aside=True),
        Step("response", RESPONSE, "kept", "kept"),
        Step("sweep", "functions.orders.idempotency:sweep", "kept", "kept", aside=True),
        Step("sweep's commit", COMMIT, "kept", "kept", since="sweep", aside=True),
    ),
}

# Where SIGTERM comes instead: the process ends by itself, with 0, and only once this work is done, written down and answered.
DRAINS: dict[str, tuple[str, ...]] = {
    "pipe": ("before claim", "after stage", "after commit"),
    "lease": ("after claim's commit", "after effect"),
    "relay": ("after claim", "after produce", "before mark"),
    "source": ("before deliver", "after deliver", "before commit"),
    "source's letter": ("before post", "before lettered"),
    "router": ("before send", "before report"),
    "router without Kafka": ("before stage",),
    "orders": ("before place", "before commit"),
}


def of(table: str) -> list[Point]:
    """Every point of a table."""
    return [Point(when, step) for step in TABLES[table] for when in ("before", "after")]


def drains(table: str) -> list[Point]:
    """Those at which a test sends SIGTERM."""
    return [point for point in of(table) if str(point) in DRAINS[table]]


def id_of(point: Point) -> str:
    """A point as a part of a test's id."""
    return str(point).replace(" ", "-")

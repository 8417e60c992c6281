"""What can be found in settings and manifests."""

from ops.doctor.findings import Code, Level

RED, AMBER = Level.RED, Level.AMBER

SETTINGS: dict[str, Code] = {
    "setting_refused": Code(
        RED,
        "a setting that no process takes",
        "every process that reads it ends at its start",
        "put the setting right; the line names it and its rule",
    ),
    "outbox_apart": Code(
        RED,
        "functions that write to the outbox, dlq_router and the relay name different databases",
        "events are written to an outbox that nobody relays",
        "name one database in `ORDER_`, `ASSEMBLY_`, `DLQ_` and `RELAY_POSTGRES_DSN`",
    ),
    "parking_apart": Code(
        RED,
        "parking is on for a consumer whose tables lie in another database than the letters",
        "it finds no letter there, so nothing is ever parked and later events overtake",
        "name one database in `DLQ_POSTGRES_DSN` and the consumer's DSN, or turn its `…_PARKING` off",
    ),
    "timeouts_order": Code(
        RED,
        "who waits outside gives up before who works inside",
        "the answer is lost on its way: what was done is sent again, and a slow event counts as one without an answer",
        "let each limit be shorter than the one around it",
    ),
    "lease_order": Code(
        RED,
        "a lease is not shorter than the source's timeout",
        "a source that gave up meets its own lease again and again, or a second send begins while the first is under way",
        "keep TELEGRAM_TIMEOUT < NOTIFICATION_LEASE < spec.delivery.timeout",
    ),
    "drain_order": Code(
        RED,
        "the platform kills before a process has drained",
        "what is in flight is cut off at every deployment, and each such event counts a try that failed",
        "let DRAIN_DELAY + SHUTDOWN_TIMEOUT and 5 s be less than the pod's grace period",
    ),
}

SOURCES: dict[str, Code] = {
    "source_invalid": Code(
        RED,
        "a KafkaSource that cannot be read",
        "our own source does not start with it, and Kubernetes refuses it or passes the field over",
        "put the field right",
    ),
    "source_missing": Code(
        RED,
        "a consumer of contracts/topics.yaml without a KafkaSource",
        "nobody brings it its events, and they leave the topic unread",
        "add the KafkaSource",
    ),
    "source_without_letters": Code(
        RED,
        "a source without a dead-letter sink",
        "an event that is refused or out of retries is committed and gone",
        "set `spec.delivery.deadLetterSink`",
    ),
    "letters_are_source": Code(
        RED,
        "a dead-letter topic that is a source topic too, or a dead-letter sink that is the sink itself",
        "its letters are events again, for ever",
        "give the consumer a dead-letter topic and sink of their own",
    ),
    "source_latest": Code(
        RED,
        "a source that begins at the end of its topic (`latest`, which is KafkaSource's default too)",
        "what was written before its first start, or while its offsets had expired, is passed over",
        "set `spec.initialOffset: earliest`",
    ),
    "source_without_group": Code(
        RED,
        "a source without a consumer group",
        "KafkaSource makes a new group with every source that is made, so a source that is deployed again forgets its place",
        "set `spec.consumerGroup`",
    ),
    "group_shared": Code(
        RED,
        "two consumers with one consumer group",
        "each event reaches one of them only",
        "give each a group of its own",
    ),
    "source_no_retry": Code(
        AMBER,
        "a source that does not try again",
        "one hiccup of a function makes a letter; a `delivery` without `retry`, or with a delay of PT0S, tries once",
        "set `spec.delivery.retry` and `backoffDelay`",
    ),
    "source_parks": Code(
        RED,
        "a source whose backoff parks an event",
        "KafkaSource's delays double without a cap: a partition waits for days, and what is behind leaves the topic unread",
        "lower `spec.delivery.retry` or `backoffDelay`",
    ),
    "source_unordered": Code(
        AMBER,
        "a source without order on a topic that has a key",
        "the events of one order overtake each other",
        "set `spec.ordering: ordered`",
    ),
    "source_differs": Code(
        AMBER,
        "a KafkaSource that says something else than contracts/topics.yaml",
        "events reach another function, letters another consumer's topic, or keys that are no text are lost",
        "make it say what the line says, or change contracts/topics.yaml",
    ),
    "token_unsendable": Code(
        RED,
        "a delivery token where a KafkaSource delivers",
        "KafkaSource can send none, so every event is answered 401 and becomes a letter",
        "take DELIVERY_TOKEN away from the function; who may call it is a matter of NetworkPolicy there",
    ),
    "gateway_async": Code(
        RED,
        "OpenFaaS's queue is on",
        "it answers 202 before anything is done, and drops what is busy (409)",
        "set `async: false`",
    ),
    "gateway_holds": Code(
        AMBER,
        "OpenFaaS's gateway starts functions from zero",
        "it holds a request for longer than the source waits, and its own failure looks like the function's",
        "set `scaleFromZero: false`",
    ),
}

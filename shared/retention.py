"""How long rows are kept: an inbox remembers an event for longer than any topic can still bring it.

That follows from contracts/topics.yaml and from nothing else: the topics that a consumer reads, and those of its dead letters, from which
an event is sent again too. What a setting says may only be longer.
"""

import math

from shared import errors, topics
from shared.config import Settings
from shared.topics import Catalogue, Topic

DAY_S = 86_400.0
MARGIN_S = DAY_S  # for clocks that differ, and for the broker, which looks only now and then for what it may delete
_SEGMENT_MS = 7 * 86_400_000  # Kafka's own default


def lifetime_s(topic: Topic) -> float:
    """How long `topic` can keep a record: past retention.ms it goes with its segment, which may be segment.ms long. inf: for ever."""
    retention_ms = int(topic.config.get("retention.ms", -1))
    if retention_ms < 0 or "delete" not in topic.config.get("cleanup.policy", "delete"):
        return math.inf
    return (retention_ms + int(topic.config.get("segment.ms", _SEGMENT_MS))) / 1000


def reach_s(inbox: str, catalogue: Catalogue | None = None) -> float:
    """How far back `inbox` is sure to know every event that was handled. inf: it forgets nothing.

    Names do not matter, so a topic that the environment names otherwise has the reach of its row. An inbox that no row names forgets
    nothing: nobody knows what may still come for it.
    """
    declared = catalogue or topics.read()
    named = {topic.name: topic for topic in declared.all()}
    reads = [(topic, named[consumer.dead_letter_topic]) for topic, consumer in declared.consumers() if consumer.inbox == inbox]
    return max((lifetime_s(topic) for pair in reads for topic in pair), default=math.inf)


def inbox_s(inbox: str, settings: Settings, catalogue: Catalogue | None = None) -> float:
    """How long a row of `inbox` is kept. inf: for ever. Raises ConfigError where INBOX_RETENTION is shorter than the topics demand."""
    reach = reach_s(inbox, catalogue)
    least, wanted = reach + MARGIN_S, settings.inbox_retention
    if wanted is None or reach == math.inf:
        return least
    if wanted < least:
        raise errors.ConfigError(
            [
                f"INBOX_RETENTION: must be {_days(least)} or longer, not {_days(wanted)}: the topics of {inbox} keep a record for up to "
                f"{_days(reach)} (retention.ms and segment.ms in contracts/topics.yaml), and an event that comes again after its row is "
                "gone has its effect twice"
            ]
        )
    return wanted


def outbox_s(settings: Settings, catalogue: Catalogue | None = None) -> float:
    """How long a row of the outbox is kept once nothing more is to be done with it. inf: for ever.

    Unless a setting says otherwise, as long as the event that it was made from can come again: a repeat then finds the row and publishes
    nothing.
    """
    if settings.outbox_retention is not None:
        return settings.outbox_retention
    declared = catalogue or topics.read()
    return max((inbox_s(consumer.inbox, settings, declared) for _, consumer in declared.consumers()), default=math.inf)


def check(settings: Settings, catalogue: Catalogue | None = None) -> None:
    """Refuse settings by which an inbox would forget too soon. Raises ConfigError with a sentence for each."""
    declared = catalogue or topics.read()
    faults: list[str] = []
    for inbox in dict.fromkeys(consumer.inbox for _, consumer in declared.consumers()):
        try:
            inbox_s(inbox, settings, declared)
        except errors.ConfigError as exc:
            faults += exc.faults
    if faults:
        raise errors.ConfigError(faults)


def _days(seconds: float) -> str:
    return f"{seconds / DAY_S:g}d"

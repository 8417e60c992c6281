"""How far each group has come, beside what its topic still has."""

from collections.abc import Iterator, Mapping

from ops.doctor.checks import finds
from ops.doctor.facts import EXPIRING, Place, Reach
from ops.doctor.findings import Finding


@finds("records_lost", "offset_beyond_end", "lag_expiring")
def places(groups: Mapping[str, Mapping[Place, Reach]]) -> Iterator[Finding]:
    """What a group has missed, and what it is about to miss."""
    for group, reached in groups.items():
        for (topic, partition), at in sorted(reached.items()):
            where = f"{group} is at offset {at.committed} of {topic}, partition {partition}"
            if at.committed < at.first:
                yield Finding(
                    "records_lost",
                    f"{where}, and the first that is left is {at.first}: {at.first - at.committed} are gone unread",
                    f"find their events in the archive or at the producers; then a longer retention.ms for {topic}",
                )
            elif at.committed > at.end:
                yield Finding(
                    "offset_beyond_end",
                    f"{where}, which ends at {at.end}",
                    f"stop its source; `kafka-consumer-groups.sh --group {group} --topic {topic} --reset-offsets --to-earliest --execute`",
                )
            elif at.committed < min(at.expiring, at.end):
                yield Finding(
                    "lag_expiring",
                    f"{where}: {min(at.expiring, at.end) - at.committed} records from there are older than {EXPIRING:.0%} of its retention",
                    "`orderflow sources list`: start or resume the source; until then a longer retention.ms",
                )


@finds("archive_behind")
def archived(archive: Mapping[Place, Reach]) -> Iterator[Finding]:
    """Dead-letter topics whose letters do not reach S3. Here `expiring` is the first offset of the last day."""
    for (topic, partition), at in sorted(archive.items()):
        waiting = min(at.expiring, at.end) - max(at.committed, at.first)
        if waiting > 0:
            yield Finding(
                "archive_behind",
                f"{waiting} letters of {topic}, partition {partition}, are older than a day and not in the archive (DLQ_ARCHIVE_BUCKET)",
                "`orderflow dlq archive`; it says why when it cannot",
            )

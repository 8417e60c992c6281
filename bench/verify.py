"""Row by row, whether what was measured really happened, and once. Each function says what is wrong: nothing when all is well."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

SHOWN = 3


def once(what: str, wanted: Iterable[str], found: Iterable[str]) -> list[str]:
    """Whether each of `wanted` is in `found` exactly once, and nothing else."""
    counted = Counter(found)
    missing = [name for name in wanted if counted.pop(name, 0) != 1]
    faults = []
    if missing:
        faults.append(f"{what}: {len(missing)} are missing or there more than once{_some(missing)}")
    if counted:
        faults.append(f"{what}: {len(counted)} should not be there{_some(counted)}")
    return faults


def consumed(expected: Mapping[str, str], inbox: Sequence[Sequence[str]], orders: Sequence[Sequence[str]]) -> list[str]:
    """Whether each event (event id → order id) is in the inbox once with its order, and exactly its order is assembled.

    `inbox` holds event id and order id, `orders` id and status.
    """
    faults = once("inbox", expected, (row[0] for row in inbox))
    wrong = [row[0] for row in inbox if expected.get(row[0], row[1]) != row[1]]
    if wrong:
        faults.append(f"inbox: {len(wrong)} have another order{_some(wrong)}")
    return faults + once("assembled orders", expected.values(), (row[0] for row in orders if row[1] == "assembled"))


def answered(wanted: int, statuses: Mapping[str, int], status: int) -> list[str]:
    """Whether all requests were answered as they should be."""
    return [] if statuses == {str(status): wanted} else [f"answers: wanted {wanted} × {status}, got {dict(statuses)}"]


def published(wanted: Iterable[str], records: Sequence[tuple[int, str, str]], unsent: int) -> list[str]:
    """Whether each event is on its topic once, none waits, and those of a key lie in one partition.

    `records` holds partition, key and event id of each record.
    """
    faults = once("records", wanted, (event_id for _, _, event_id in records))
    if unsent:
        faults.append(f"outbox: {unsent} rows are not sent")
    places: dict[str, int] = {}
    apart = {key for partition, key, _ in records if places.setdefault(key, partition) != partition}
    return faults + ([f"records: {len(apart)} keys lie in more than one partition{_some(apart)}"] if apart else [])


def committed(wanted: int, found: int) -> list[str]:
    """Whether the group's offsets are at the end of the topic."""
    return [] if wanted == found else [f"offsets: {found} records are committed, {wanted} were written"]


def _some(names: Iterable[str]) -> str:
    return ": " + ", ".join(sorted(names)[:SHOWN])

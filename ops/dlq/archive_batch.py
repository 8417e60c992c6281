"""What was read of one partition and is not yet in S3: for each consumer and day one object, packed while it grows."""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ops.dlq import archive_line
from ops.dlq.archive_line import Archived, Name, NameTaken, Written

if TYPE_CHECKING:
    from ops.dlq.archive_store import Store

LETTERS_MAX = 10_000
OBJECTS_MAX = 64  # each has a packer of a quarter of a MiB
BYTES_MAX = 16 << 20  # of letters, before packing; one larger letter is still taken
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(slots=True)
class _Object:
    """The letters of one consumer and day."""

    name: Name
    end: int = 0
    letters: int = 0
    packed: io.BytesIO = field(default_factory=io.BytesIO)
    packer: "zlib._Compress" = field(
        default_factory=lambda: zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    )  # without a time: equal lines, equal bytes

    def add(self, letter: Archived) -> None:
        self.packed.write(self.packer.compress(archive_line.write(letter)))
        self.end = letter.offset + 1
        self.letters += 1

    def packed_up(self) -> bytes:
        """The object's bytes. Asking again, when S3 did not take them, gives the same."""
        return self.packed.getvalue() + self.packer.copy().flush()


class Batch:
    """The letters of one partition from the committed offset on."""

    def __init__(self, topic: str, partition: int, next_offset: int, topic_id: str) -> None:
        self.topic, self.partition, self.topic_id = topic, partition, topic_id
        self.next_offset = next_offset
        self.letters = self.bytes = 0
        self._objects: dict[tuple[str, object], _Object] = {}

    def add(self, letter: Archived) -> None:
        """The next letter of the partition."""
        key = (letter.consumer, letter.day)
        made = self._objects.get(key)
        if made is None:
            made = self._objects[key] = _Object(Name(letter.consumer, letter.day, self.topic, self.partition, letter.offset))
        made.add(letter)
        self.letters += 1
        self.bytes += len(letter.value or b"") + len(letter.key or b"")
        self.next_offset = letter.offset + 1

    @property
    def full(self) -> bool:
        """Whether it is to be written before more is read."""
        return self.letters >= LETTERS_MAX or self.bytes >= BYTES_MAX or len(self._objects) >= OBJECTS_MAX

    def write(self, store: "Store", told: Callable[[str, Written, int], None]) -> None:
        """Have S3 confirm every object of it; `told` hears of each. Raises Unavailable; all of it may be written again then."""
        for made in self._objects.values():
            facts = {"topic-id": self.topic_id, "letters": str(made.letters)}
            name, body = made.name, made.packed_up()
            try:
                outcome = store.put(name.key, body, facts, end=made.end)
            except NameTaken:
                name = name._replace(topic_id=self.topic_id or "unknown")
                outcome = store.put(name.key, body, facts, end=made.end)
            told(name.key, outcome, made.letters)

    def written(self) -> None:
        """Forget what S3 has."""
        self.letters = self.bytes = 0
        self._objects = {}

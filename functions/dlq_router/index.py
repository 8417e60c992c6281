"""Letters into the index, once they are safe: in the background, so that no answer waits for it and none fails with it.

While PostgreSQL is away the newest wait here, within a bound. What is forgotten, or lost with this process, is no loss: the topic has it,
and every `orderflow dlq` command reads that on.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence

from shared import errors, letters, letters_index
from shared.database import Database

log = logging.getLogger(__name__)

WAITING_BYTES_MAX = 32 << 20
BATCH_LETTERS_MAX, BATCH_BYTES_MAX = 200, 4 << 20
AGAIN_S, AGAIN_MAX_S = 0.5, 10.0
END_S = 2.0  # how long the end of the process waits for it


class Index:
    """The index of letters, as their writer fills it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[letters.Entry] = deque()
        self._waiting_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._away = False

    def offer(self, topic: str, value: bytes) -> None:
        """Have the letter whose JSON is `value` in the index soon, if that is possible. Neither waits nor fails."""
        try:
            self._push(letters.read(value, topic=topic))
        except errors.Refused:
            log.exception("a letter of ours cannot be read for the index; its topic has it")
            return
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def write(self, topic: str, value: bytes) -> None:
        """Have the letter whose JSON is `value` in the index when this returns. Raises what keeps it out."""
        entry = letters.read(value, topic=topic)
        await self._database.run(lambda tx: letters_index.index(tx, [entry]))

    async def close(self) -> None:
        """Write what waits, for a moment at most, and let go of the database."""
        if self._writing is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._writing, END_S)
        if not self._away:
            await asyncio.to_thread(self._database.close)

    def _push(self, entry: letters.Entry) -> None:
        self._waiting.append(entry)
        self._waiting_bytes += len(entry.value)
        while self._waiting_bytes > WAITING_BYTES_MAX:
            self._waiting_bytes -= len(self._waiting.popleft().value)

    async def _write(self) -> None:
        again_s = AGAIN_S
        while batch := self._batch():
            try:
                await self._database.run(lambda tx: letters_index.index(tx, batch))
            except errors.Retryable as exc:
                self._say_away(exc)
                for entry in reversed(batch):
                    self._waiting.appendleft(entry)
                    self._waiting_bytes += len(entry.value)
                await asyncio.sleep(again_s)
                again_s = min(2 * again_s, AGAIN_MAX_S)
            except errors.OrderflowError:
                await self._each(batch)
            else:
                again_s = AGAIN_S
                if self._away:
                    log.info("the index takes letters again")
                self._away = False

    async def _each(self, batch: Sequence[letters.Entry]) -> None:
        """One by one: what PostgreSQL does not take is left to its topic, and its neighbours have their rows."""
        for entry in batch:
            try:
                await self._database.run(lambda tx: letters_index.index(tx, [entry]))  # noqa: B023  likewise
            except errors.OrderflowError as exc:
                log.warning("a letter is not in the index", extra={"letter_id": entry.letter_id, "reason": exc.detail})

    def _batch(self) -> list[letters.Entry]:
        batch: list[letters.Entry] = []
        size = 0
        while self._waiting and len(batch) < BATCH_LETTERS_MAX and size < BATCH_BYTES_MAX:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].value)
        self._waiting_bytes -= size
        return batch

    def _say_away(self, exc: errors.OrderflowError) -> None:
        if not self._away:
            log.warning("the index of letters is behind its topics: PostgreSQL does not take them", extra={"reason": exc.detail})
        self._away = True

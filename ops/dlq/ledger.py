"""What is written down of every item of a run: before it is sent, and what came of it.

Marks that are made at the same moment share a transaction, so eight letters in flight cost little more than one. A mark is there only when
it is committed. A database that is away is waited for: what was sent is in its row, and what came back is not lost for a restart of it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from ops.dlq import runs
from shared import errors
from shared.database import Database, Transaction

Status = Literal["done", "duplicate", "failed_again", "written", "skipped"]
DATABASE_AWAY_MAX_S = 60.0
MARKS_MAX = 200  # of one transaction

# A letter that was edited, discarded or done in the meantime is not sent; one that is being edited is waited for.
_LETTERS_SENT = """
UPDATE dlq_run_items AS item SET status = 'sent', updated_at = clock_timestamp()
FROM (SELECT letter_id, value FROM dlq_letters WHERE letter_id = ANY(:letters::text[]) AND state = 'open' ORDER BY letter_id FOR SHARE) AS l
WHERE item.run_id = :run AND item.n = ANY(:ns::int[]) AND item.letter_id = l.letter_id AND item.open
RETURNING item.n, l.value
"""
_EVENTS_SENT = """
UPDATE dlq_run_items SET status = 'sent', updated_at = clock_timestamp() WHERE run_id = :run AND n = ANY(:ns::int[]) AND open
RETURNING n, item
"""
_OPEN = "SELECT state FROM dlq_runs WHERE run_id = :run FOR SHARE"
_WHY_NOT = """
SELECT item.n, coalesce(l.state, 'no longer in the index') FROM dlq_run_items AS item LEFT JOIN dlq_letters AS l USING (letter_id)
WHERE item.run_id = :run AND item.n = ANY(:ns::int[])
"""
_RESULTS = """
UPDATE dlq_run_items AS item
SET status = u.status, code = u.code, detail = u.detail, attempts = item.attempts + u.tries, open = false, item = NULL,
    updated_at = clock_timestamp()
FROM unnest(:ns::int[], :statuses::text[], :codes::text[], :details::text[], :tries::int[]) AS u(n, status, code, detail, tries)
WHERE item.run_id = :run AND item.n = u.n
"""
_LETTERS_DONE = """
UPDATE dlq_letters SET state = 'done', state_reason = :reason WHERE letter_id = ANY(:letters::text[]) AND state = 'open'
"""
_HISTORY = """
INSERT INTO dlq_history (letter_id, what, who, detail, run_id)
SELECT u.letter_id, u.what, :who, u.detail, :run
FROM unnest(:letters::text[], :whats::text[], :details::text[]) AS u(letter_id, what, detail)
"""


class Item(NamedTuple):
    """One thing that a run is to send."""

    n: int
    letter_id: str | None
    consumer: str
    lane: str | None
    event_id: str | None
    status: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an item; `detail` says why it failed, or how it went."""

    status: Status
    code: str = ""
    detail: str = ""
    tries: int = 1
    place: str = ""


Sent: TypeAlias = bytes | Result | runs.Ended


class _Mark(NamedTuple):
    item: Item
    result: Result | None  # None: it is about to be sent
    where: str
    written: "asyncio.Future[Sent | None]"


class Ledger:
    """The marks of one run. `where` of a mark says to whom the item goes."""

    def __init__(self, database: Database, run: runs.Run, who: str) -> None:
        self._database, self._run, self._who = database, run, who
        self._waiting: list[_Mark] = []
        self._writing: asyncio.Task[None] | None = None

    async def page(self, after: int, many: int) -> list[Item]:
        """The next items without a result."""
        rows = await self._database.run(
            lambda tx: tx.run(
                "SELECT n, letter_id, consumer, lane, event_id, status FROM dlq_run_items"
                " WHERE run_id = :run AND n > :after AND open ORDER BY n LIMIT :many::int",
                run=self._run.run_id,
                after=after,
                many=many,
            )
        )
        return [Item(*row) for row in rows]

    async def sent(self, item: Item, where: str) -> bytes | Result:
        """Write down that `item` is about to be sent. What it holds; or why it must not be sent. Raises Ended, Unavailable."""
        found = await self._mark(item, None, where)
        if not isinstance(found, bytes | Result):
            raise runs.Ended(f"item {item.n} of run {self._run.run_id} is gone")
        return found

    async def result(self, item: Item, result: Result, where: str) -> None:
        """Write down what became of `item`. Raises Unavailable."""
        await self._mark(item, result, where)

    async def forced(self, item: Item, detail: str) -> None:
        """Write down that its inbox row is about to be removed."""
        if item.letter_id is not None:
            letter_id = item.letter_id
            await self._database.run(lambda tx: self._told(tx, [(letter_id, "forced", detail)]))

    async def _mark(self, item: Item, result: Result | None, where: str) -> Sent | None:
        mark = _Mark(item, result, where, asyncio.get_running_loop().create_future())
        self._waiting.append(mark)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())
        return await mark.written

    async def _write(self) -> None:
        while self._waiting:
            marks, self._waiting = self._waiting[:MARKS_MAX], self._waiting[MARKS_MAX:]
            try:
                found = await self._committed(marks)
            except Exception as exc:  # noqa: BLE001  it is raised again where the mark is waited for
                for mark in marks:
                    if not mark.written.done():
                        mark.written.set_exception(exc)
                continue
            for mark in marks:
                told = found.get(mark.item.n) if mark.result is None else None
                if mark.written.done():
                    pass
                elif isinstance(told, runs.Ended):
                    mark.written.set_exception(told)
                else:
                    mark.written.set_result(told)

    async def _committed(self, marks: Sequence[_Mark]) -> dict[int, Sent]:
        until, wait_s = time.monotonic() + DATABASE_AWAY_MAX_S, 0.1
        while True:
            try:
                return await self._database.run(lambda tx: self._marked(tx, marks))
            except errors.Retryable:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(wait_s)
            wait_s = min(2.0, wait_s * 2)

    def _marked(self, tx: Transaction, marks: Sequence[_Mark]) -> dict[int, Sent]:
        results = [mark for mark in marks if mark.result is not None]
        if results:
            self._resulted(tx, [(mark.item, mark.result, mark.where) for mark in results if mark.result is not None])
        going = [mark for mark in marks if mark.result is None]
        return self._going(tx, going) if going else {}

    def _going(self, tx: Transaction, marks: Sequence[_Mark]) -> dict[int, Sent]:
        (state,) = (row[0] for row in tx.run(_OPEN, run=self._run.run_id))
        if state != "open":  # results of the same transaction are to be kept, so it must not fail
            return {mark.item.n: runs.Ended(f"run {self._run.run_id} was {state}") for mark in marks}
        ns = [mark.item.n for mark in marks]
        letters = [mark.item.letter_id for mark in marks if mark.item.letter_id is not None]
        if letters:
            rows = tx.run(_LETTERS_SENT, run=self._run.run_id, ns=ns, letters=letters)
        else:
            rows = tx.run(_EVENTS_SENT, run=self._run.run_id, ns=ns)
        found: dict[int, Sent] = {n: bytes(value) for n, value in rows if value is not None}
        self._told(tx, [(mark.item.letter_id, "replayed", f"to {mark.where}") for mark in marks if mark.item.n in found])
        left = [mark for mark in marks if mark.item.n not in found]
        if left:
            why = {int(n): str(is_in) for n, is_in in tx.run(_WHY_NOT, run=self._run.run_id, ns=[mark.item.n for mark in left])}
            skipped = {mark: Result("skipped", "not_open", f"the letter is {why.get(mark.item.n)}, not open", 0) for mark in left}
            self._resulted(tx, [(mark.item, result, mark.where) for mark, result in skipped.items()])
            found |= {mark.item.n: result for mark, result in skipped.items()}
        return found

    def _resulted(self, tx: Transaction, results: Sequence[tuple[Item, Result, str]]) -> None:
        tx.run(
            _RESULTS,
            run=self._run.run_id,
            ns=[item.n for item, _, _ in results],
            statuses=["sent" if result.status == "written" else result.status for _, result, _ in results],
            codes=[result.code for _, result, _ in results],
            details=[_storable(result.detail) for _, result, _ in results],
            tries=[result.tries for _, result, _ in results],
        )
        done = [item.letter_id for item, result, _ in results if item.letter_id and result.status in {"done", "duplicate"}]
        if done:
            tx.run(_LETTERS_DONE, letters=done, reason=f"replayed by run {self._run.run_id}")
        self._told(tx, [(item.letter_id, *told) for item, result, where in results if (told := _history(result, where)) is not None])

    def _told(self, tx: Transaction, told: Sequence[tuple[str | None, str, str]]) -> None:
        letters = [(letter_id, what, detail) for letter_id, what, detail in told if letter_id is not None]
        if letters:
            ids, whats, details = (list(column) for column in zip(*letters, strict=True))
            tx.run(_HISTORY, letters=ids, whats=whats, details=details, who=self._who, run=self._run.run_id)


def _history(result: Result, where: str) -> tuple[str, str] | None:
    if result.status == "done":
        return "done", f"{where} handled it"
    if result.status == "duplicate":
        return "done", f"{where} had handled it before"
    if result.status == "failed_again":
        return "failed again", _storable(f"{result.code}: {result.detail}")
    return ("replayed", result.detail) if result.status == "written" else None


def _storable(text: str) -> str:
    """`text` as PostgreSQL can hold it."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()

"""PostgreSQL: a few connections for many transactions."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shared import errors, schema
from shared.address import Address
from shared.config import Settings
from shared.connection import Connection, Row

log = logging.getLogger(__name__)

T = TypeVar("T")

RECONNECT_DELAY_S, RECONNECT_DELAY_MAX_S = 0.05, 1.0


class Transaction:
    """An open transaction. It commits or rolls back by itself when the work that got it ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, sql: str, **params: object) -> list[Row]:
        """Run one statement; `:name` is a parameter, a list an array. Its rows, or an empty list. Raises OrderflowError only.

        Parameters travel as text: write `:x::bigint` where the statement alone does not tell PostgreSQL the type.
        """
        return self._connection.run(sql, params)

    def lost(self) -> bool:
        """Whether the server has ended the connection while nothing was asked of it; its locks are then gone. Does not wait."""
        return self._connection.lost()


class Database:
    """A few connections to one database. Made without connecting; safe to share between threads.

    With `needs`, a connection is one only where the database goes with a version that needs this migration.
    """

    def __init__(self, dsn: str, *, settings: Settings, application: str, needs: str | None = None) -> None:
        self._address, self._application, self._needs = Address.parse(dsn, settings), application, needs
        self._idle: deque[Connection] = deque()
        self._idle_max = settings.postgres_connections
        self._threads = ThreadPoolExecutor(settings.postgres_connections, thread_name_prefix="database")
        self._gate = threading.Lock()
        self._connect_delay_s = 0.0
        self._connect_not_before = 0.0
        self._refusal = errors.Unavailable()

    def transact(self, work: Callable[[Transaction], T], *, lock_timeout_ms: int | None = None) -> T:
        """Run `work` in one transaction, in this thread, and commit it. Raises what `work` raises, or an error of this project."""
        connection = self._begun()
        try:
            if lock_timeout_ms is not None:
                connection.run(f"SET LOCAL lock_timeout = {int(lock_timeout_ms)}", {})
            result = work(Transaction(connection))
            connection.run("COMMIT", {})
        except BaseException:
            self._rolled_back(connection)
            raise
        self._give_back(connection)
        return result

    async def run(self, work: Callable[[Transaction], T]) -> T:
        """`transact` in one of the database's own threads, of which there is one for each connection."""
        return await self.work(lambda: self.transact(work))

    async def work(self, work: Callable[[], T]) -> T:
        """Run `work`, which calls `transact` as often as it likes, in one of the database's own threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def ping(self) -> None:
        """Whether the database answers. Raises Unavailable."""
        await self.run(lambda tx: tx.run("SELECT 1"))

    @contextlib.contextmanager
    def listen(self, channel: str) -> Iterator[Callable[[float], bool]]:
        """LISTEN on a connection of its own: gives `wait(timeout_s)`, true when notified. Raises Unavailable, also from `wait`."""
        connection = self._connected()
        try:
            connection.run(f'LISTEN "{channel}"', {})
            yield connection.notified
        finally:
            connection.close()

    @contextlib.contextmanager
    def session(self) -> Iterator[Transaction]:
        """A connection of its own, each statement committed by itself: for what a session holds, such as a lock. Raises Unavailable."""
        connection = self._connected()
        try:
            yield Transaction(connection)
        finally:
            connection.close()

    def close(self) -> None:
        """End the threads, once their work is done, and the connections."""
        self._threads.shutdown()
        while self._idle:
            self._idle.popleft().close()

    def _begun(self) -> Connection:
        # An idle connection may have died unseen. Nothing is lost by trying the next, for BEGIN has no effect.
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            try:
                connection.run("BEGIN", {})
            except errors.Unavailable:
                connection.close()
            else:
                return connection
        connection = self._connected()
        connection.run("BEGIN", {})
        return connection

    def _connected(self) -> Connection:
        with self._gate:
            if time.monotonic() < self._connect_not_before:
                raise errors.Unavailable(self._refusal.detail, code=self._refusal.code)
        try:
            connection = self._opened()
        except errors.Unavailable as exc:
            with self._gate:
                again, self._refusal = exc.detail == self._refusal.detail, exc
                self._connect_delay_s = min(max(self._connect_delay_s * 2, RECONNECT_DELAY_S), RECONNECT_DELAY_MAX_S)
                self._connect_not_before = time.monotonic() + self._connect_delay_s
            if exc.code != "database_away" and not again:
                what = (
                    "the database and this version do not go together: nothing is handled until they do"
                    if exc.code == "migration"
                    else "the database does not let this process in: its DSN or the server has to be changed"
                )
                log.error(what, extra={"role": self._address.user, "code": exc.code, "reason": exc.detail})  # noqa: TRY400  a trace says no more
            raise
        with self._gate:
            self._connect_delay_s = self._connect_not_before = 0.0
            self._refusal = errors.Unavailable()
        return connection

    def _opened(self) -> Connection:
        connection = Connection(self._address, self._application)
        if self._needs is not None:
            try:
                schema.check(connection, self._needs)
            except BaseException:
                connection.close()
                raise
        return connection

    def _rolled_back(self, connection: Connection) -> None:
        if connection.usable:
            try:
                connection.run("ROLLBACK", {})
            except errors.OrderflowError:
                connection.close()
        self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        if connection.usable and len(self._idle) < self._idle_max:
            self._idle.append(connection)
        elif connection.usable:
            connection.close()


def connect(consumer: str, settings: Settings, application: str) -> Database:
    """The database of `consumer` (order, assembly, notification, dlq, relay), as this version needs it. Connects at the first use."""
    return Database(settings.postgres_dsn(consumer), settings=settings, application=application, needs=schema.NEEDS)


def check(consumer: str, settings: Settings) -> None:
    """Refuse a DSN of `consumer` that cannot be used as it is, so that the process does not start with it. Raises ConfigError."""
    Address.parse(settings.postgres_dsn(consumer), settings)

"""PostgreSQL: connections, transactions, and the one border at which the driver's errors are translated.

After any exception that is not a `DatabaseError` pg8000's stream may be out of step, and the next query would get the answer to an
earlier one. So such a connection is closed, and parameters are turned into text here, before the driver can fail on one half-way.
"""

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pg8000.exceptions
import pg8000.native

from shared import errors, literals, sqlstate
from shared.address import Address
from shared.config import Settings

T = TypeVar("T")
Row = list[Any]

STATEMENTS_MAX = 64  # prepared statements kept per connection; a function has a dozen
RECONNECT_DELAY_S, RECONNECT_DELAY_MAX_S = 0.05, 1.0


class Transaction:
    """An open transaction. It commits or rolls back by itself when the work that got it ends."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection

    def run(self, sql: str, **params: object) -> list[Row]:
        """Run one statement; `:name` is a parameter, a list an array. Its rows, or an empty list. Raises OrderflowError only.

        Parameters travel as text: write `:x::bigint` where the statement alone does not tell PostgreSQL the type.
        """
        return self._connection.run(sql, params)

    def lost(self) -> bool:
        """Whether the server has ended the connection while nothing was asked of it; its locks are then gone. Does not wait."""
        return self._connection.lost()


class _Connection:
    """One driver connection and the statements prepared on it."""

    def __init__(self, driver: pg8000.native.Connection) -> None:
        self._driver = driver
        self._prepared: dict[str, Any] = {}
        self.usable = True

    def run(self, sql: str, params: dict[str, object]) -> list[Row]:
        texts = {name: literals.text(value) for name, value in params.items()}
        try:
            rows = self._statement(sql, texts).run(**texts) if texts else self._driver.run(sql)
        except errors.Bug:
            raise
        except pg8000.exceptions.DatabaseError as exc:
            if _state(exc) in sqlstate.STALE:
                self.close()
            raise _translated(exc) from exc
        except Exception as exc:
            self.close()
            raise errors.Unavailable(f"the connection to the database was lost: {exc}", code="database_away") from exc
        except BaseException:
            self.close()
            raise
        return rows or []

    def notified(self, timeout_s: float) -> bool:
        """Wait for a notification, at most `timeout_s`; forget all that came. Raises Unavailable when the connection is gone."""
        if not self._driver.notifications:
            readable, _, _ = select.select([self._driver._usock], [], [], timeout_s)  # pg8000 has no wait of its own
            if readable:
                self.run("SELECT 1", {})
        found = bool(self._driver.notifications)
        self._driver.notifications.clear()
        return found

    def lost(self) -> bool:
        if not self.usable:
            return True
        sock = self._driver._usock
        readable, _, _ = select.select([sock], [], [], 0)
        if not readable:
            return False
        try:  # a FATAL error ("E", or an alert under TLS) and the end of the stream are losses; a notice or notification is not
            return socket.socket.recv(sock, 1, socket.MSG_PEEK) in {b"", b"E", b"\x15"}
        except OSError:
            return True

    def close(self) -> None:
        self.usable = False
        with contextlib.suppress(pg8000.exceptions.InterfaceError, OSError):
            self._driver.close()

    def _statement(self, sql: str, texts: dict[str, str | None]) -> Any:
        found = self._prepared.get(sql)
        if found is None:
            try:
                pg8000.native.to_statement(sql)[1](texts)
            except pg8000.exceptions.InterfaceError as exc:  # nothing was sent: the statement itself is wrong
                raise errors.Bug(str(exc), code="statement") from exc
            if len(self._prepared) >= STATEMENTS_MAX:
                for statement in self._prepared.values():
                    statement.close()
                self._prepared.clear()
            found = self._prepared[sql] = self._driver.prepare(sql)
        return found


class Database:
    """A few connections to one database. Made without connecting; safe to share between threads."""

    def __init__(self, dsn: str, *, settings: Settings, application: str) -> None:
        self._address, self._application = Address.parse(dsn, settings), application
        self._idle: deque[_Connection] = deque()
        self._idle_max = settings.postgres_connections
        self._threads = ThreadPoolExecutor(settings.postgres_connections, thread_name_prefix="database")
        self._gate = threading.Lock()
        self._connect_delay_s = 0.0
        self._connect_not_before = 0.0

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

    def _begun(self) -> _Connection:
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

    def _connected(self) -> _Connection:
        with self._gate:
            if time.monotonic() < self._connect_not_before:
                raise errors.Unavailable("the database is away", code="database_away")
        try:
            connection = _Connection(_driver(self._address, self._application))
        except errors.Unavailable:
            with self._gate:
                self._connect_delay_s = min(max(self._connect_delay_s * 2, RECONNECT_DELAY_S), RECONNECT_DELAY_MAX_S)
                self._connect_not_before = time.monotonic() + self._connect_delay_s
            raise
        with self._gate:
            self._connect_delay_s = self._connect_not_before = 0.0
        return connection

    def _rolled_back(self, connection: _Connection) -> None:
        if connection.usable:
            try:
                connection.run("ROLLBACK", {})
            except errors.OrderflowError:
                connection.close()
        self._give_back(connection)

    def _give_back(self, connection: _Connection) -> None:
        if connection.usable and len(self._idle) < self._idle_max:
            self._idle.append(connection)
        elif connection.usable:
            connection.close()


def _driver(address: Address, application: str) -> pg8000.native.Connection:
    """A new connection of the driver. Raises Unavailable."""
    try:
        sock = address.socket()
        driver = pg8000.native.Connection(
            address.user,
            host=address.host,
            database=address.database,
            password=address.password,
            sock=sock,
            ssl_context=address.ssl_context,
            application_name=application,
            startup_params={"options": address.options},
        )
        driver._usock.settimeout(address.answer_timeout_s)  # with TLS it is another socket than ours
    except pg8000.exceptions.DatabaseError as exc:
        raise errors.Unavailable(f"cannot connect to {address}: {_message(exc)}", code="database_away") from exc
    except Exception as exc:
        raise errors.Unavailable(f"cannot connect to {address}: {exc or type(exc).__name__}", code="database_away") from exc
    return driver


def connect(consumer: str, settings: Settings, application: str) -> Database:
    """The database of `consumer` (order, assembly, notification, dlq, relay). Connects at the first use."""
    return Database(settings.postgres_dsn(consumer), settings=settings, application=application)


def _translated(exc: pg8000.exceptions.DatabaseError) -> errors.OrderflowError:
    return sqlstate.failure(_state(exc), _message(exc), str(_facts(exc).get("n", "")))


def _state(exc: pg8000.exceptions.DatabaseError) -> str:
    return str(_facts(exc).get("C", ""))


def _message(exc: pg8000.exceptions.DatabaseError) -> str:
    # Without D, the detail: it repeats the row's values.
    facts = _facts(exc)
    return f"{facts.get('M', 'error')} ({facts.get('C', '?')})" if facts else str(exc)


def _facts(exc: pg8000.exceptions.DatabaseError) -> dict[str, Any]:
    """The fields of the server's message by their letters: C is the SQLSTATE, M the text, n the constraint."""
    facts = exc.args[0] if exc.args else None
    return facts if isinstance(facts, dict) else {}

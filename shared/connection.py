"""A connection to PostgreSQL, and the one border at which the driver's errors are translated.

After any exception that is not a `DatabaseError` pg8000's stream may be out of step, and the next query would get the answer to an
earlier one. So such a connection is closed, and parameters are turned into text here, before the driver can fail on one half-way.
"""

import contextlib
import select
import socket
from typing import Any

import pg8000.exceptions
import pg8000.native

from shared import errors, literals, sqlstate
from shared.address import Address, tls_fault

Row = list[Any]

_HUNG_UP: int = getattr(select, "POLLRDHUP", 0)  # Linux: the other side writes no more, whatever still waits to be read
STATEMENTS_MAX = 64  # prepared statements kept per connection; a function has a dozen


class Connection:
    """One connection of the driver and the statements prepared on it. Made connected. Raises Unavailable."""

    def __init__(self, address: Address, application: str) -> None:
        self._driver = _driver(address, application)
        self._role = address.user
        self._prepared: dict[str, Any] = {}
        self.usable = True

    def run(self, sql: str, params: dict[str, object]) -> list[Row]:
        """The rows of one statement. Raises OrderflowError only."""
        texts = {name: literals.text(value) for name, value in params.items()}
        try:
            rows = self._statement(sql, texts).run(**texts) if texts else self._driver.run(sql)
        except errors.Bug:
            raise
        except pg8000.exceptions.DatabaseError as exc:
            if _state(exc) in sqlstate.STALE:
                self.close()
            raise _translated(exc, self._role) from exc
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
        """Whether the server has ended it. Does not wait."""
        if not self.usable:
            return True
        sock = self._driver._usock
        waiting = select.poll()
        waiting.register(sock, select.POLLIN | _HUNG_UP)
        found = dict(waiting.poll(0)).get(sock.fileno(), 0)
        if found & (_HUNG_UP | select.POLLHUP | select.POLLERR):
            return True
        if not found:
            return False
        try:  # a FATAL error and the end of the stream are losses; a notice or notification is not. Under TLS nobody can tell by a byte
            return socket.socket.recv(sock, 1, socket.MSG_PEEK) in {b"", b"E", b"\x15"}
        except OSError:
            return True

    def close(self) -> None:
        """Let go of it, in whatever state it is."""
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
        reason = _message(exc)
        if address.ssl_context is False and "no encryption" in reason:
            reason += ": it wants TLS, and the DSN says sslmode=disable"
        raise sqlstate.not_let_in(_state(exc), f"cannot connect to {address}: {reason}") from exc
    except Exception as exc:
        fault = tls_fault(exc)
        reason = f"{fault}: {exc}" if fault else str(exc) or type(exc).__name__
        raise errors.Unavailable(f"cannot connect to {address}: {reason}", code="tls" if fault else "database_away") from exc
    return driver


def _translated(exc: pg8000.exceptions.DatabaseError, role: str) -> errors.OrderflowError:
    _facts(exc).pop("D", None)  # the detail repeats the row's values, and would stand in every stack trace of what is raised from this
    return sqlstate.failure(_state(exc), _message(exc), role=role, constraint=str(_facts(exc).get("n", "")))


def _state(exc: pg8000.exceptions.DatabaseError) -> str:
    return str(_facts(exc).get("C", ""))


def _message(exc: pg8000.exceptions.DatabaseError) -> str:
    facts = _facts(exc)
    return f"{facts.get('M', 'error')} ({facts.get('C', '?')})" if facts else str(exc)


def _facts(exc: pg8000.exceptions.DatabaseError) -> dict[str, Any]:
    """The fields of the server's message by their letters: C is the SQLSTATE, M the text, n the constraint."""
    facts = exc.args[0] if exc.args else None
    return facts if isinstance(facts, dict) else {}

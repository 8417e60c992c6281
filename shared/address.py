"""Where a PostgreSQL DSN points, and how a connection there is to behave.

Of libpq's parameters `host`, `sslmode` (disable, require, verify-ca, verify-full), `sslrootcert`, `sslcert` and `sslkey` are understood,
and no other is taken: one that is passed over in silence, or misspelt, would be a connection less safe than somebody thinks.
"""

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from shared import errors
from shared.config import Settings

_PARAMETERS = frozenset({"host", "sslmode", "sslrootcert", "sslcert", "sslkey"})
_OTHER_HOST = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
ANSWER_GRACE_S = 2.0  # how much later than the server's own statement_timeout the client gives up on an answer
# Finds a dead peer within 30 s; a platform has the options that its socket module names.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}


@dataclass(frozen=True, slots=True)
class Address:
    """A database server and a database in it. Its text names no password."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    ssl_context: ssl.SSLContext | bool
    connect_timeout_s: float
    answer_timeout_s: float
    options: str

    @classmethod
    def parse(cls, dsn: str, settings: Settings) -> Self:
        """Read `postgresql://user:password@host:port/database?sslmode=…`. Raises ConfigError, without the DSN in its text."""
        try:
            parts = urlsplit(dsn)
            port = parts.port or 5432
        except ValueError:  # its text may hold a part of the password
            raise errors.ConfigError(
                ["a POSTGRES_DSN is not a URL: is its port a number, and are signs such as / ? # in the password written as %2F %3F %23?"]
            ) from None
        if parts.scheme not in {"postgresql", "postgres"} or not parts.username or not parts.path.strip("/"):
            raise errors.ConfigError(["a POSTGRES_DSN must be postgresql://user:password@host:port/database"])
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        unknown = sorted(query.keys() - _PARAMETERS)
        if unknown:
            raise errors.ConfigError([f"a POSTGRES_DSN has {', '.join(unknown)}, and only {', '.join(sorted(_PARAMETERS))} are understood"])
        return cls(
            host=query.get("host") or parts.hostname or "localhost",
            port=port,
            database=unquote(parts.path.strip("/")),
            user=unquote(parts.username),
            password=unquote(parts.password or ""),
            ssl_context=_ssl_context(query),
            connect_timeout_s=settings.postgres_connect_timeout,
            answer_timeout_s=settings.statement_timeout + ANSWER_GRACE_S,
            options=(
                f"-c statement_timeout={settings.statement_timeout * 1000:.0f} -c lock_timeout={settings.lock_timeout * 1000:.0f}"
                f" -c idle_in_transaction_session_timeout={settings.delivery_deadline * 1000:.0f} -c timezone=UTC"
            ),
        )

    def __str__(self) -> str:
        """Host, port, database and user."""
        return f"{self.host}:{self.port}/{self.database} as {self.user}"

    def socket(self) -> socket.socket:
        """A connected socket: Unix where `host` is a folder, else TCP. Raises OSError."""
        if self.host.startswith("/"):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(self.connect_timeout_s)
            sock.connect(f"{self.host}/.s.PGSQL.{self.port}")
            return sock
        sock = socket.create_connection((self.host, self.port), timeout=self.connect_timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # without it a large parameter costs 40 ms
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return sock


def _ssl_context(query: Mapping[str, str]) -> ssl.SSLContext | bool:
    """What pg8000 takes. `False` skips TLS; the driver's own default would try it unverified and fall back in silence."""
    mode, root = query.get("sslmode", "disable"), query.get("sslrootcert")
    if mode == "disable":
        return False
    if mode not in {"require", "verify-ca", "verify-full"}:
        raise errors.ConfigError([f"a POSTGRES_DSN's sslmode must be disable, require, verify-ca or verify-full, not {mode!r}"])
    try:
        context = ssl.create_default_context(cafile=root)
    except OSError as exc:
        raise errors.ConfigError([f"a POSTGRES_DSN's sslrootcert {root} cannot be read: {exc}"]) from exc
    context.check_hostname = mode == "verify-full"
    if mode == "require" and root is None:
        context.verify_mode = ssl.CERT_NONE
    if "sslcert" in query:
        try:
            context.load_cert_chain(query["sslcert"], query.get("sslkey"))
        except OSError as exc:
            raise errors.ConfigError([f"a POSTGRES_DSN's sslcert {query['sslcert']} or sslkey cannot be read: {exc}"]) from exc
    return context


def tls_fault(exc: BaseException) -> str:
    """Which parameter of the DSN is to be looked at, when the server's certificate was not taken or it speaks no TLS; else empty."""
    cause = exc.__cause__ if isinstance(exc.__cause__, ssl.SSLError) else exc
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in _OTHER_HOST:
            return "the server's certificate is for another host than the DSN names (sslmode=verify-full)"
        return "the server's certificate is not of an authority in sslrootcert"
    if isinstance(cause, ssl.SSLError):
        return "TLS with the server failed (sslmode)"
    return "the server speaks no TLS, and sslmode asks for it" if str(exc) == "Server refuses SSL" else ""

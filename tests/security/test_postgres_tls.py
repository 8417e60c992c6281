"""PostgreSQL over TLS: what each sslmode takes and refuses, in which words, and that a lost connection is noticed under TLS too."""

import json
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest

from ops import child, home
from shared import config, connection, database, errors
from shared.address import Address
from tests import conftest, controls, stack
from tests.security import tls

ANOTHER_HOST = "the server's certificate is for another host than the DSN names (sslmode=verify-full): "
ANOTHER_AUTHORITY = "the server's certificate is not of an authority in sslrootcert: "


@pytest.fixture
def dsn(tls_database: stack.TestDatabase) -> Callable[..., str]:
    """dsn("sslmode=…", host="…") -> a DSN with these options and no others."""

    def made(options: str, host: str = child.LOOPBACK) -> str:
        return tls_database.dsn("orderflow_order").partition("?")[0].replace(f"@{child.LOOPBACK}", f"@{host}") + f"?{options}"

    return made


def encrypted(dsn: str) -> bool:
    """Whether a connection by `dsn` is. Raises what connecting raises."""
    found = connection.Connection(Address.parse(dsn, config.Settings()), "test")
    try:
        return bool(found.run("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", {})[0][0])
    finally:
        found.close()


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ("sslmode=require", child.LOOPBACK),  # as libpq: without an authority it verifies nothing
        ("sslmode=require", "localhost"),
        ("sslmode=require&sslrootcert={own}", "localhost"),
        ("sslmode=verify-ca&sslrootcert={own}", "localhost"),
        ("sslmode=verify-full&sslrootcert={own}", child.LOOPBACK),
    ],
)
def test_a_server_that_is_as_the_mode_demands_is_taken(
    tls_postgres: tls.TlsServer, dsn: Callable[..., str], options: str, host: str
) -> None:
    assert encrypted(dsn(options.format(own=tls_postgres.certified.authority), host))


@pytest.mark.parametrize(
    ("options", "host", "code", "told"),
    [
        ("sslmode=disable", child.LOOPBACK, "credentials", "no encryption (28000): it wants TLS, and the DSN says sslmode=disable"),
        ("", child.LOOPBACK, "credentials", "no encryption (28000): it wants TLS, and the DSN says sslmode=disable"),
        ("sslmode=verify-full&sslrootcert={own}", "localhost", "tls", ANOTHER_HOST),
        ("sslmode=verify-full&sslrootcert={other}", child.LOOPBACK, "tls", ANOTHER_AUTHORITY),
        ("sslmode=verify-ca&sslrootcert={other}", child.LOOPBACK, "tls", ANOTHER_AUTHORITY),
        ("sslmode=require&sslrootcert={other}", child.LOOPBACK, "tls", ANOTHER_AUTHORITY),
        ("sslmode=verify-full", child.LOOPBACK, "tls", ANOTHER_AUTHORITY),
    ],
)
def test_another_server_is_refused_in_words_that_name_the_parameter(
    tls_postgres: tls.TlsServer, dsn: Callable[..., str], other_authority: str, options: str, host: str, code: str, told: str
) -> None:
    with pytest.raises(errors.Unavailable) as caught:
        encrypted(dsn(options.format(own=tls_postgres.certified.authority, other=other_authority), host))

    assert (code, True) == (caught.value.code, told in caught.value.detail), caught.value.detail


def test_a_server_without_tls_is_refused_where_it_is_asked_for(database: stack.TestDatabase) -> None:
    with pytest.raises(errors.Unavailable, match="the server speaks no TLS, and sslmode asks for it") as caught:
        encrypted(f"{database.dsn('orderflow_order')}?sslmode=require")

    assert caught.value.code == "tls"


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        ("?sslmode=prefer", "a POSTGRES_DSN's sslmode must be disable, require, verify-ca or verify-full, not 'prefer'"),
        ("?sslmod=verify-full", "a POSTGRES_DSN has sslmod, and only host, sslcert, sslkey, sslmode, sslrootcert are understood"),
        ("?sslmode=verify-full&sslrootcert=/no/such/file", "a POSTGRES_DSN's sslrootcert /no/such/file cannot be read"),
        ("?sslmode=require&sslcert=/no/such/file", "a POSTGRES_DSN's sslcert /no/such/file or sslkey cannot be read"),
    ],
)
def test_a_dsn_that_is_not_understood_is_a_wrong_setting(tail: str, told: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        Address.parse(f"postgresql://orderflow_order:planted-4711@127.0.0.1:9/orders{tail}", config.Settings())

    assert told in caught.value.detail
    assert "planted" not in caught.value.detail


@pytest.mark.parametrize("function", ["order_on_assembled", "orders", "dlq_router"])
def test_with_a_dsn_that_is_not_understood_a_function_does_not_start(function: str) -> None:
    done = start(function, "postgresql://orderflow_order:planted-4711@127.0.0.1:9/orders?sslmode=prefer")

    assert (2, True) == (done.returncode, "sslmode must be disable, require, verify-ca or verify-full" in done.stderr), done.stderr
    assert ("planted" not in done.stderr, "Traceback" not in done.stderr) == (True, True)


@pytest.mark.parametrize("password", ["planted/4711", "planted#4711", "planted?4711", "4711/planted"])
def test_a_password_that_is_not_written_as_a_url_wants_it_is_not_shown(password: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        Address.parse(f"postgresql://orderflow_order:{password}@127.0.0.1:9/orders", config.Settings())

    assert "POSTGRES_DSN" in caught.value.detail
    assert not any(part in caught.value.detail for part in ("planted", "4711"))


def start(function: str, dsn: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "shared.server", "--source", f"functions/{function}/main.py", "--port", "0"]
    env = child.environment(ORDER_POSTGRES_DSN=dsn, DLQ_POSTGRES_DSN=dsn)
    return subprocess.run(command, env=env, cwd=home.CHECKOUT, capture_output=True, text=True, check=False, timeout=60)


def test_a_function_that_must_not_trust_the_server_answers_503_and_says_why(
    tls_database: stack.TestDatabase, other_authority: str, start_function: conftest.StartFunction
) -> None:
    dsn = tls_database.dsn("orderflow_order").partition("?")[0] + f"?sslmode=verify-full&sslrootcert={other_authority}"
    function = start_function("order_on_assembled", {"ORDER_POSTGRES_DSN": dsn})

    ready = httpx.get(f"{function.url}/ready", timeout=30)
    answer = httpx.post(function.url, timeout=30, **controls.binary(controls.assembled()))

    assert (503, "tls", 503, "tls") == (ready.status_code, ready.json()["code"], answer.status_code, answer.json()["code"])
    logged = [json.loads(line) for line in function.text.splitlines() if line.startswith("{")]
    (line,) = {(of["role"], of["code"], ANOTHER_AUTHORITY in of["reason"]) for of in logged if of["level"] == "error"}
    assert ("orderflow_order", "tls", True) == line
    assert "orderflow_order_password" not in function.text


def test_migrate_goes_over_tls_and_refuses_what_a_function_refuses(tls_database: stack.TestDatabase, other_authority: str) -> None:
    right = tls_database.dsn()
    wrong = f"{right.partition('?')[0]}?sslmode=verify-full&sslrootcert={other_authority}"

    for dsn, code, told in ((right, 0, ""), (wrong, 1, "certificate verify failed")):
        done = subprocess.run(
            stack.orderflow("migrate", "--dsn", dsn), env=child.environment(), capture_output=True, text=True, check=False
        )
        assert (code, True) == (done.returncode, told in done.stderr), done.stderr
        assert "order_password" not in done.stdout + done.stderr


def test_a_connection_that_the_server_ended_is_noticed_without_asking(
    tls_postgres: tls.TlsServer, tls_database: stack.TestDatabase
) -> None:
    held = database.Database(tls_database.dsn("orderflow_order"), settings=config.Settings(), application="test-of-loss")
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test-of-loss'"

    def work(tx: database.Transaction) -> bool:
        assert not tx.lost()
        tls_postgres.administer(ended)
        return stack.eventually(tx.lost, "the loss to be noticed")

    try:
        with pytest.raises(errors.Unavailable):
            held.transact(work)
    finally:
        held.close()

"""The local broker and database: they start from nothing, come back after kill -9, and refuse data that is not theirs."""

from collections.abc import Callable

import pytest

from ops import postgres as local_postgres
from shared import errors
from tests import stack
from tests.conftest import MakeTopic, StartFunction


def test_a_topic_made_at_the_broker_is_there(kafka_brokers: str, make_topic: MakeTopic) -> None:
    name = make_topic(partitions=3)
    assert name.startswith("test.")
    assert ":" in kafka_brokers


def test_each_test_has_a_migrated_database_of_its_own(database: stack.TestDatabase) -> None:
    assert [[0]] == database.run("SELECT count(*) FROM order_inbox_events")
    assert [["orders"]] == database.run("SELECT :name", name="orders")


def test_a_role_connects_to_the_database_with_its_own_password(database: stack.TestDatabase) -> None:
    from shared import config
    from shared import database as shared_database

    found = shared_database.Database(database.dsn("orderflow_relay"), settings=config.Settings(), application="test")
    try:
        assert [["orderflow_relay"]] == found.transact(lambda tx: tx.run("SELECT current_user::text"))
    finally:
        found.close()


def test_the_database_server_comes_back_with_its_rows_after_kill_9(private_postgres: Callable[[], stack.PostgresServer]) -> None:
    server = private_postgres()
    database = server.new_database()
    database.run("INSERT INTO orders (id, user_id, status) VALUES ('o', 'u', 'paid')")
    server.kill()
    with pytest.raises(errors.Unavailable):
        database.run("SELECT 1")
    server.start()
    assert [["o"]] == stack.eventually(lambda: database.run("SELECT id FROM orders"), "the row")


def test_the_broker_comes_back_with_its_topics_after_kill_9(private_kafka: Callable[[], stack.KafkaServer]) -> None:
    server = private_kafka()
    name = server.make_topic()
    server.kill()
    server.start()
    with pytest.raises(Exception, match="already exists"):
        server.make_topic(name=name)


def test_a_function_started_for_a_test_answers(start_function: StartFunction, database: stack.TestDatabase) -> None:
    function = start_function("order_on_assembled", database.environment())
    assert function.url.startswith("http://127.0.0.1:")
    assert 0 == function.stop()


def test_data_of_another_postgresql_version_is_refused_with_the_way_out(tmp_path: object) -> None:
    folder = tmp_path / "postgres"  # type: ignore[operator]
    server = local_postgres.Server(folder, 1)
    server.prepare()
    (server.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(errors.Unavailable, match=r"is of PostgreSQL 12, and this is 18: remove .*ORDERFLOW_HOME"):
        server.prepare()

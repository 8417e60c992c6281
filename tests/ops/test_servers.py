"""The local broker and database: they start from nothing, come back after kill -9, and refuse data that is not theirs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import home
from ops import kafka as local_kafka
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


def test_data_of_another_postgresql_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    server = local_postgres.Server(folder, 1)
    server.prepare()
    (server.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(errors.Unavailable, match=r"is of PostgreSQL 12, and this is 18: remove .*ORDERFLOW_HOME"):
        server.prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_data_of_another_user_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "kafka"
    (folder / "log").mkdir(parents=True)
    (folder / "log" / "meta.properties").touch()
    os.chown(folder, 12345, 12345)
    with pytest.raises(errors.Unavailable, match="belongs to user 12345 and would be used by user 0: remove that folder"):
        local_kafka.Broker(home.folder(), folder, 1, 2).prepare()
    server = local_postgres.Server(tmp_path / "postgres", 1)
    server.prepare()
    os.chown(server.data, 12345, 12345)
    with pytest.raises(errors.Unavailable, match=r"PostgreSQL's data in .* belongs to user 12345"):
        server.prepare()


def test_an_id_that_another_process_took_over_does_not_keep_the_database_from_starting(
    private_postgres: Callable[[], stack.PostgresServer],
) -> None:
    server = private_postgres()
    server.kill()
    file = server.data / "postmaster.pid"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    server.prepare()
    assert not file.exists()
    server.start()


def test_a_second_server_on_the_same_data_is_refused(
    private_postgres: Callable[[], stack.PostgresServer], private_kafka: Callable[[], stack.KafkaServer]
) -> None:
    with pytest.raises(errors.Unavailable, match=r"a PostgreSQL .* already: end it first"):
        private_postgres().prepare()
    with pytest.raises(errors.Unavailable, match=r"a broker runs with .* already: `orderflow kafka down`"):
        private_kafka().prepare()


def test_a_broker_works_in_a_folder_whose_name_has_a_space_and_an_accent(tmp_path: Path) -> None:
    with stack.running(stack.KafkaServer, tmp_path / "größe 1 \U0001f4e6") as server:
        assert server.make_topic()
        assert (tmp_path / "größe 1 \U0001f4e6" / "log" / "meta.properties").exists()

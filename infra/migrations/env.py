"""What Alembic runs: the migrations on the connection, and in the transaction, that ops/migrations.py opened."""

from alembic import context

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run `orderflow migrate`: it holds the lock that keeps two migrations apart")
context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()

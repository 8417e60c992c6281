"""Runs that ended long ago leave the tables, and with them their items. What became of each letter stays in its history.

Only this command makes runs, so it is the command that removes them: before each new one, a few thousand rows at a time.
"""

from shared.database import Database, Transaction

KEPT_DAYS = 90
STEP_ROWS = 5000
STEPS_MAX = 40  # what is left then is for the next run

_OLDEST = """
SELECT run_id FROM dlq_runs WHERE state <> 'open' AND ended_at < clock_timestamp() - make_interval(days => :days::int)
ORDER BY ended_at, run_id LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_ITEMS = """
DELETE FROM dlq_run_items WHERE run_id = :run AND n IN (
    SELECT n FROM dlq_run_items WHERE run_id = :run ORDER BY n LIMIT :rows::int) RETURNING 1
"""
_RUN = "DELETE FROM dlq_runs WHERE run_id = :run"


def remove(database: Database) -> None:
    """Remove what is older than KEPT_DAYS, as far as that goes in a moment. An open run stays, whatever its age. Raises Unavailable."""
    for _ in range(STEPS_MAX):
        if not database.transact(_step):
            return


def _step(tx: Transaction) -> bool:
    """Remove some items of the oldest run, or the run itself once it has none. Whether there was one."""
    found = tx.run(_OLDEST, days=KEPT_DAYS)
    if not found:
        return False
    run_id = found[0][0]
    if not tx.run(_ITEMS, run=run_id, rows=STEP_ROWS):
        tx.run(_RUN, run=run_id)
    return True

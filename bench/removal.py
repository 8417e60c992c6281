"""`python -m bench removal`: old rows leave inbox and outbox while events flow. What that costs them, and what becomes of the tables."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench import report, stand
from bench.processes import Process, python
from bench.report import Results
from bench.rows import starting
from bench.rows.consumer import ConsumerRow, Job
from bench.stand import Say

TABLES = ("order_inbox_events", "order_outbox_events")
# All of them are older than any topic's records; a thousand a second came in, as far as the rows tell. The outbox's are as large as ours.
FILL = """
INSERT INTO order_inbox_events (event_id, event_type, occurred_at, order_id, received_at)
SELECT gen_random_uuid(), 'order.assembly.completed', at, gen_random_uuid(), at
FROM generate_series(1, {rows}) AS n, LATERAL (SELECT now() - interval '100 days' + n * interval '1 millisecond') AS old(at);
INSERT INTO order_outbox_events
    (event_id, event_type, occurred_at, aggregate_id, payload, topic, status, attempts, created_at, sent_at, due_at, record_key, producer,
     headers)
SELECT event_id, event_type, occurred_at, order_id, convert_to(repeat(event_id, 6), 'UTF8'), event_type, 'sent', 1, received_at,
       received_at, received_at, convert_to(order_id, 'UTF8'), 'bench',
       jsonb_build_object('ce_id', event_id, 'ce_subject', order_id, 'ce_partitionkey', order_id, 'ce_time', occurred_at, 'ce_type',
       event_type, 'ce_source', '/orderflow/assembly', 'ce_specversion', '1.0', 'content-type', 'application/json')
FROM order_inbox_events;
"""
_SIZE = "SELECT pg_table_size('{table}') >> 20, pg_indexes_size('{table}') >> 20"
_DEAD = "SELECT n_dead_tup, autovacuum_count FROM pg_stat_user_tables WHERE relname = '{table}'"


@dataclass
class Look:
    """What one round left behind."""

    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    removed: dict[str, Any] = field(default_factory=dict)


class Removing:
    """Starts the full path, and beside it removal; keeps what is to be told of it when the row is over."""

    def __init__(self, *, removes: bool) -> None:
        self._removes = removes
        self._process: Process | None = None
        self.looks: list[Look] = []

    def __call__(self, job: Job) -> list[Process]:
        """The processes of a row."""
        self.looks.append(Look({f"{table} before": _size(job, table) for table in TABLES}))
        started = starting.full_path(job)
        if self._removes:
            env = job.stand.environment("order_on_assembled", job.database) | job.stand.environment("outbox_relay", job.database)
            self._process = job.stand.process("removal", python("bench.removing"), env)
            started.append(self._process)
        return started

    def ended(self, job: Job) -> None:
        """The row is over, and its database still there."""
        self.looks[-1].sizes |= {f"{table} after": _size(job, table) for table in TABLES}
        if self._process is not None:
            self._process.stop()
            self.looks[-1].removed = json.loads(self._process.out.read_text(encoding="utf-8").splitlines()[-1])


def run(events: int, rounds: int, rows: int, say: Say) -> tuple[dict[str, Any], list[str]]:
    """Measure the full path with and without removal beside it, in turns; what was found, and what was wrong."""
    kinds = {"without removal": Removing(removes=False), "beside removal": Removing(removes=True)}
    results = [
        Results(ConsumerRow(name, name, "ours", 1.0, kind, filled=FILL.format(rows=rows), ended=kind.ended)) for name, kind in kinds.items()
    ]
    with stand.running(say) as servers:
        for n in range(1, rounds + 1):
            for one in results:
                for line in _lines(one.measure(servers, events), kinds[one.row.name].looks[-1]):
                    say(f"round {n}/{rounds}: {one.row.name}: {line}")
    found = {
        "rows_before": rows,
        "rows": [one.json() | {"looks": [vars(look) for look in kinds[one.row.name].looks]} for one in results],
    }
    report.write(found, report.RESULTS / "removal.json")
    return found, [fault for one in results for fault in one.faults()]


def _lines(measured: Any, look: Look) -> Iterator[str]:
    yield str(measured)
    for table, removed in look.removed.items():
        yield f"{removed['rows']:,} rows of {table} went in {removed['seconds']:.0f} s"
    for name, size in look.sizes.items():
        yield f"{name}: table {size['table_mib']} MiB, indexes {size['indexes_mib']} MiB, {size['dead_rows']:,} dead rows"


def _size(job: Job, table: str) -> dict[str, int]:
    (size,) = job.stand.sql(_SIZE.format(table=table), job.database)
    (dead,) = job.stand.sql(_DEAD.format(table=table), job.database)
    return {"table_mib": int(size[0]), "indexes_mib": int(size[1]), "dead_rows": int(dead[0]), "vacuums": int(dead[1])}

"""Runs that are ended, killed, resumed, abandoned, or meet each other: nothing is lost, and nothing has a second effect."""

import contextlib
import dataclasses
import itertools
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ops import child
from tests import controls, stack
from tests.conftest import MakeTopic, StartFunction, StartProcess
from tests.dlq.replaying import ASSEMBLED, ORDER, Bench
from tests.source import sinks

NewSink = Callable[[], sinks.Sink]
LETTERS = 2000


def test_L07_a_replay_that_is_killed_twice_and_resumed_has_every_effect_once(
    bench: Bench, start_function: StartFunction, start_process: StartProcess, new_sink: NewSink, make_topic: MakeTopic
) -> None:
    """kill -9 in the middle of 2,000 letters, twice: 2,000 effects, none twice, no letter lost; the other groups saw no event."""
    topic, other = make_topic(), new_sink()
    bench.env["KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC"] = topic
    function = start_function("order_on_assembled", bench.env | {"ORDER_POSTGRES_DSN": bench.database.dsn("orderflow_order")})
    bench.sinks(order_on_assembled=function.url, notify=other.url)
    count_effects(bench)
    orders = [controls.new_id("order-") for _ in range(LETTERS)]
    bench.database.run("INSERT INTO orders (id, user_id, status) SELECT unnest(:ids::text[]), 'user-7', 'paid'", ids=orders)
    bench.fail(ORDER, *(controls.assembled(order_id=order) for order in orders))

    first = start_process(bench.command("replay", "--consumer", ORDER, "--yes", "--rate", "200"), bench.env)
    stack.eventually(lambda: handled(bench) >= 200, f"the first letters: {first.text[-2000:]}")
    first.kill()
    assert LETTERS == sum(bench.states().values())
    run = bench.run_id()
    second = start_process(bench.command("replay", "--resume", run, "--rate", "200"), bench.env)
    stack.eventually(lambda: handled(bench) >= 500, f"more letters: {second.text[-2000:]}")
    second.kill()
    assert 0 < bench.states()["done"] < LETTERS

    ran = bench.replay("--resume", run, "--rate", "100000", "--json")

    told = ran.json()
    assert {"done": LETTERS} == bench.states()
    assert (LETTERS, 0, 0) == (told["done"] + told["duplicate"], told["failed_again"], told["left"])
    assert [[LETTERS, LETTERS, 1]] == bench.database.run(
        "SELECT count(*), sum(n)::int, max(n) FROM (SELECT event_id, count(*)::int AS n FROM effects GROUP BY event_id) AS e"
    )
    assert [["assembled", LETTERS]] == bench.database.run("SELECT status, count(*) FROM orders GROUP BY status")
    assert [[LETTERS]] == bench.database.run("SELECT count(*) FROM order_inbox_events")
    assert ([], 0) == (other.requests, other.in_flight_max)


def test_ctrl_c_finishes_what_is_in_flight_and_says_how_to_go_on(bench: Bench, new_sink: NewSink, start_process: StartProcess) -> None:
    """Exit code 130; what was sent has its result, the rest is selected; the resumed run sends the rest and nothing twice."""
    sink = new_sink()
    interrupted = threading.Event()
    held = sinks.Reply(200, {"outcome": "done"}, until=interrupted.is_set)
    sink.script = sinks.each(lambda _: sinks.OK if len(sink.requests) <= 3 else held)
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, *(controls.assembled() for _ in range(30)))
    process = start_process(bench.command("replay", "--all", "--yes", "--in-flight", "4"), bench.env)
    stack.eventually(lambda: len(sink.requests) == 7, "letters on their way")

    process.send(signal.SIGINT)
    stack.eventually(lambda: "once more ends it at once" in process.text, "it to say that it ends")
    interrupted.set()
    assert 130 == process.wait()

    sent, run = len(sink.requests), bench.run_id()
    assert 7 == sent
    assert f"orderflow dlq replay --resume {run}" in process.text
    assert {"done": sent, "open": 30 - sent} == bench.states()
    assert [[0]] == bench.database.run("SELECT count(*) FROM dlq_run_items WHERE status = 'sent'")
    ran = bench.replay("--resume", run)
    assert (0, 30) == (ran.code, len(sink.requests)), ran.err
    assert 30 == len({event.attributes["id"] + str(event.offset) for event in sink.events})
    assert {"done": 30} == bench.states()


def test_ctrl_c_twice_waits_for_nothing(bench: Bench, new_sink: NewSink, start_process: StartProcess) -> None:
    """What was in flight is sent again by the resumed run."""
    sink = new_sink()
    sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, after_s=25))
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, *(controls.assembled() for _ in range(3)))
    process = start_process(bench.command("replay", "--all", "--yes", "--in-flight", "2"), bench.env)
    stack.eventually(lambda: len(sink.requests) == 2, "letters on their way")
    process.send(signal.SIGINT)
    stack.eventually(lambda: "once more ends it at once" in process.text, "the first answer")

    assert 130 == process.stop(signal.SIGINT, within_s=20)

    assert f"orderflow dlq replay --resume {bench.run_id()}" in process.text
    sink.script = sinks.each(lambda _: sinks.OK)
    assert 0 == bench.replay("--resume", bench.run_id()).code
    assert (5, {"done": 3}) == (len(sink.requests), bench.states())


def test_on_a_terminal_a_bar_tells_rate_and_time_left(bench: Bench, new_sink: NewSink) -> None:
    """And every letter that failed again has its line; standard output, which is no terminal here, has a line for each letter."""
    sink = new_sink()
    sink.script = sinks.each(lambda event: sinks.refuse("nope") if event.offset == 9 else sinks.Reply(200, after_s=0.1))
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, *(controls.assembled() for _ in range(30)))
    shown, end = os.openpty()
    env = child.environment(**bench.env, TERM="xterm", COLUMNS="160")
    with subprocess.Popen(
        child.guarded(bench.command("replay", "--all", "--yes", "--in-flight", "2")), env=env, stdout=-1, stderr=end
    ) as run:
        os.close(end)
        seen = read_all(shown)
        assert run.stdout is not None
        lines = run.stdout.read().decode().splitlines()

    assert 1 == run.returncode
    assert re.search(r"replaying.*\d+/30.*\d+/s.*\d:\d\d:\d\d", seen), seen
    assert (30, 1) == (len(lines), len([line for line in lines if "failed again\tnope" in line]))


def test_an_outage_is_waited_for_and_costs_no_letter(bench: Bench, new_sink: NewSink) -> None:
    """503, 429 and a refused connection are nobody's failure: one at a time is tried until it is over, and all are done then."""
    sink = new_sink()
    first = [sinks.away(), sinks.Reply(429, {"code": "overloaded", "detail": "too much"}, {"retry-after": "0.2"})]
    together = [dataclasses.replace(reply, until=lambda: len(sink.requests) >= 4) for reply in [*first, sinks.away(), sinks.away()]]
    turns = iter([*together, *[sinks.away()] * 4])
    sink.script = sinks.each(lambda _: next(turns, sinks.OK))
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, *(controls.assembled() for _ in range(40)))

    ran = bench.replay("--all", "--yes", "--in-flight", "4")

    assert 0 == ran.code, ran.err
    assert {"done": 40} == bench.states()
    assert "waiting for" in ran.err
    assert "is there again" in ran.err
    assert 40 + 8 == len(sink.requests)
    probes = [request.at for request in sink.requests][4:9]
    # At the least half of 0.1 s, doubled each time; a probe's answer goes out after it came in, so no machine is too slow for this.
    assert all(later - before >= 0.05 * 2**n for n, (before, later) in enumerate(itertools.pairwise(probes), 1)), probes


def test_a_function_that_is_not_there_yet_is_waited_for(bench: Bench, new_sink: NewSink) -> None:
    """A refused connection costs no try."""
    sink = new_sink()
    sink.stop()
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, *(controls.assembled() for _ in range(3)))
    back = threading.Timer(1.0, sink.start)
    back.start()

    ran = bench.replay("--all", "--yes")

    back.join()
    assert (0, 3) == (ran.code, len(sink.requests)), ran.err
    assert {"done": 3} == bench.states()


def test_without_an_answer_it_is_sent_again_when_health_is_good(bench: Bench, new_sink: NewSink) -> None:
    """A lost answer counts as a try only after GET /health answered, and is sent again then."""
    sink = new_sink()
    replies = iter([sinks.CLOSE])
    sink.script = lambda _: next(replies, sinks.OK)
    bench.sinks(order_on_assembled=sink.url)
    (letter_id,) = bench.fail(ORDER, controls.assembled())

    ran = bench.replay("--all", "--yes")

    assert (0, f"{letter_id}\tdone\t\n", 2) == (ran.code, ran.out, len(sink.requests))
    assert 1 == len(sink.health_checks)


def test_D03_two_replays_at_once_send_each_letter_once(bench: Bench, new_sink: NewSink, start_process: StartProcess) -> None:
    """The second is told which letters are taken and by which run; nothing is sent twice."""
    sink = new_sink()
    release = threading.Event()
    sink.script = sinks.each(lambda _: sinks.OK if release.is_set() else sinks.away())
    bench.sinks(order_on_assembled=sink.url)
    ids = bench.fail(ORDER, *(controls.assembled() for _ in range(5)))
    first = start_process(bench.command("replay", *ids[:3], "--yes"), bench.env)
    stack.eventually(lambda: sink.requests, f"the first run: {first.text}")
    run = bench.run_id()

    none_left = bench.replay(*ids[:2], "--yes")
    threading.Timer(0.5, release.set).start()
    rest = bench.replay("--all", "--yes")

    assert (1, "") == (none_left.code, none_left.out)
    assert all(letter_id in none_left.err for letter_id in (*ids[:2], run))
    assert (0, set(ids[3:])) == (rest.code, {line.split("\t")[0] for line in rest.out.splitlines()})
    assert all(letter_id in rest.err for letter_id in (*ids[:3], run))
    assert 0 == first.wait(), first.text
    answered = [event.offset for event in sink.events]
    assert {"done": 5} == bench.states()
    assert 5 == len(set(answered))
    assert [[5, 5]] == bench.database.run("SELECT count(*), count(DISTINCT letter_id) FROM dlq_history WHERE what = 'done'")


def test_D03_many_replays_at_the_same_moment_share_the_letters(bench: Bench, new_sink: NewSink) -> None:
    """Four commands that begin together: each letter is in one run, and is sent once."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, *(controls.assembled() for _ in range(60)))

    started = [run_in_background(bench, "replay", "--all", "--yes") for _ in range(4)]
    codes = [process.wait(2 * stack.PATIENCE_S) for process in started]

    assert {0} <= set(codes) <= {0, 1}
    assert 60 == len(sink.requests) == len(set(sink.offsets))
    assert {"done": 60} == bench.states()


def test_a_finished_run_is_not_resumed(bench: Bench, new_sink: NewSink) -> None:
    """Nothing of it is left."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, controls.assembled())
    assert 0 == bench.replay("--all", "--yes").code

    ran = bench.replay("--resume", bench.run_id())

    assert (1, True, 1) == (ran.code, "is finished: nothing of it is left" in ran.err, len(sink.requests))


def test_a_run_at_work_is_not_resumed_by_another_process(bench: Bench, new_sink: NewSink, start_process: StartProcess) -> None:
    """Its process lives, and says so every few seconds."""
    sink = new_sink()
    sink.script = sinks.each(lambda _: sinks.away())
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, controls.assembled())
    process = start_process(bench.command("replay", "--all", "--yes"), bench.env)
    stack.eventually(lambda: sink.requests, process.text)

    ran = bench.replay("--resume", bench.run_id())

    assert (1, True) == (ran.code, "is at work in another process" in ran.err and f"pid {process.pid}" in ran.err), ran.err
    assert "at work" == bench.runs().out.splitlines()[1].split("\t")[3]
    assert 130 == process.stop(signal.SIGINT)
    assert "open" == bench.runs().out.splitlines()[1].split("\t")[3]


def test_an_abandoned_run_frees_its_letters_and_stops_its_process(bench: Bench, new_sink: NewSink, start_process: StartProcess) -> None:
    """Those without a result can be chosen again; the process that was at it sends nothing more."""
    sink = new_sink()
    sink.script = sinks.each(lambda event: sinks.OK if event.offset <= 2 else sinks.away())
    bench.sinks(order_on_assembled=sink.url)
    ids = bench.fail(ORDER, *(controls.assembled() for _ in range(20)))
    process = start_process(bench.command("replay", "--all", "--yes", "--in-flight", "2"), bench.env)
    stack.eventually(lambda: bench.states().get("done") == 2, "two letters to be done")
    run = bench.run_id()

    assert 2 == bench.runs("--abandon", run).code  # a process is at it, and nobody is here to be asked
    told = bench.runs("--abandon", run, "--yes", "--json").json()

    assert 18 == told["freed"]
    assert 1 == process.wait(), process.text
    assert f"run {run} was abandoned" in process.text
    sink.script = sinks.each(lambda _: sinks.OK)
    ran = bench.replay("--all", "--yes")
    assert (0, set(ids[2:])) == (ran.code, {line.split("\t")[0] for line in ran.out.splitlines()})
    assert (1, True) == ((again := bench.replay("--resume", run)).code, "is abandoned" in again.err)
    assert (1, True) == ((again := bench.runs("--abandon", run)).code, "is abandoned already" in again.err)


def test_a_run_whose_selection_was_never_complete_is_not_resumed(bench: Bench) -> None:
    """Killed while it wrote its selection down, or while it asked: nothing was sent, and it only remains to give it up."""
    bench.fail(ORDER, controls.assembled())
    bench.database.run("INSERT INTO dlq_runs (run_id, kind, who, heartbeat_at) VALUES ('half', 'letters', 'x', 'epoch')")

    assert (1, True) == ((ran := bench.replay("--resume", "half")).code, "was never complete" in ran.err)
    assert 0 == bench.runs("--abandon", "half").code


def test_letters_of_a_consumer_that_is_no_more_go_where_they_are_sent(bench: Bench, new_sink: NewSink) -> None:
    """Its group was renamed: without an address they cannot be sent, with one they can."""
    sink = new_sink()
    bench.fail(ORDER, controls.assembled())
    bench.database.run("UPDATE dlq_letters SET consumer = 'renamed-long-ago'")

    assert (1, True) == ((ran := bench.replay("--all", "--yes")).code, "--url sends its letters elsewhere" in ran.err)
    assert (1, True) == ((ran := bench.replay("--all", "--yes", "--url", sink.url, "--force")).code, "where its inbox is" in ran.err)
    assert (0, 1) == ((ran := bench.replay("--all", "--yes", "--url", sink.url)).code, len(sink.requests)), ran.err


def test_runs_tell_how_far_they_came(bench: Bench, new_sink: NewSink) -> None:
    """The list has the numbers; one run has each item with its result."""
    sink = new_sink()
    sink.script = sinks.each(lambda event: sinks.refuse("nope") if event.offset == 2 else sinks.OK)
    bench.sinks(order_on_assembled=sink.url, notify=sink.url)
    _, bad = bench.fail(ORDER, controls.assembled(), controls.assembled())
    bench.fail(ASSEMBLED, controls.assembled())
    assert 1 == bench.replay("--all", "--yes").code

    (told,) = bench.runs("--json").json()

    wanted = {"total": 3, "done": 2, "failed_again": 1, "left": 0, "state": "finished", "kind": "letters"}
    assert wanted == {name: told[name] for name in wanted}
    items = {item["id"]: item for item in bench.runs(told["run_id"], "--json").json()["items"]}
    assert ("failed_again", "nope", 1) == tuple(items[bad][name] for name in ("status", "code", "tries"))
    assert "1 failed again" in bench.runs(told["run_id"]).err


def read_all(descriptor: int) -> str:
    """What a terminal shows, until nobody writes to it any more."""
    shown = b""
    with contextlib.suppress(OSError):
        while some := os.read(descriptor, 65536):
            shown += some
    os.close(descriptor)
    return shown.decode()


def count_effects(bench: Bench) -> None:
    """Write down each time that an event is handled, in the transaction of its effect."""
    bench.database.run("CREATE TABLE effects (event_id text)")
    bench.database.run(
        "CREATE FUNCTION count_effect() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " $$ BEGIN INSERT INTO effects VALUES (NEW.event_id); RETURN NEW; END $$"
    )
    bench.database.run("CREATE TRIGGER counted AFTER INSERT ON order_inbox_events FOR EACH ROW EXECUTE FUNCTION count_effect()")


def handled(bench: Bench) -> int:
    return int(bench.database.run("SELECT count(*) FROM order_inbox_events")[0][0])


def run_in_background(bench: Bench, *arguments: str) -> "subprocess.Popen[bytes]":
    env: Mapping[str, Any] = child.environment(**bench.env)
    return subprocess.Popen(child.guarded(bench.command(*arguments)), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

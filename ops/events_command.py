"""`orderflow event`: make a CloudEvent by hand, and send one to a function or a topic."""

import enum
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from ops import addresses, records, specimens, terminal
from shared import bearer, config, errors, topics
from shared.config import Settings

app = typer.Typer(no_args_is_help=True, help="Make a CloudEvent by hand, and send one to a function or a topic.")

Answer = dict[str, Any]


class Mode(enum.StrEnum):
    """How a CloudEvent travels."""

    structured = "structured"
    binary = "binary"


@app.command()
@terminal.failures()
def new(
    kind: Annotated[
        str, typer.Argument(metavar="TYPE", help="The event's type, such as order.payment.completed, or its class, OrderPaid.")
    ],
    *,
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", "-e", metavar="NAME=VALUE", help="An attribute or extension; may be repeated.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", metavar="PATH=VALUE", help="A field of the payload, such as amount=5000; may be repeated."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="So many events, one a line, each with ids of its own.")] = 1,
    invalid: Annotated[bool, typer.Option("--invalid", help="Allow what our functions would refuse, to see them refuse it.")] = False,
) -> None:
    """Print a structured CloudEvent with everything that is not given made up, ready for `orderflow event send`."""
    attributes, fields = _pairs("-e", attribute), _pairs("--data", data)
    for _ in range(count):
        try:
            event = specimens.make(kind, attributes, fields, checked=not invalid)
        except ValueError as exc:
            raise terminal.usage(str(exc)) from exc
        _, body = specimens.request(event)
        sys.stdout.write(body.decode() + "\n")


@app.command()
@terminal.failures()
def send(
    target: Annotated[str, typer.Argument(metavar="FUNCTION|TOPIC", help="A function, such as notify, or a topic.")],
    file: Annotated[Path, typer.Argument(help="One event, a JSON array (a batch) or one event a line; - is standard input.")] = Path("-"),
    *,
    url: Annotated[str | None, typer.Option(help="The function's address.", show_default="where orderflow up put it")] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="How the event travels.", show_default="structured to a function, binary to a topic")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for a function's answer.")] = 30.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Send events to a function by HTTP, or to a topic in binary mode as our own events are. Exit code 1 unless each was taken."""
    settings = config.load()
    functions = addresses.functions()
    name = target.replace("-", "_")
    try:
        events, batch = specimens.read(_content(file))
    except ValueError as exc:
        raise terminal.usage(f"{file}: {exc}") from exc
    if url is None and name not in functions:
        _to_topic(settings, target, events, structured=mode is Mode.structured, json=json)
        return
    with httpx.Client(timeout=timeout_s, headers=bearer.headers(settings.delivery_token)) as client:
        where = url or functions[name]
        if batch:
            answers = _sent_together(client, where, events)
        else:
            answers = [_sent(client, where, event, binary=mode is Mode.binary) for event in events]
    if json:
        terminal.as_json(answers)
    else:
        terminal.table(["id", "status", "outcome", "code", "detail"], [[of.get(key) for key in _SHOWN] for of in answers])
    if any(of["status"] not in range(200, 300) for of in answers):
        raise typer.Exit(terminal.FAILED)


_SHOWN = ("id", "status", "outcome", "code", "detail")


def _to_topic(settings: Settings, topic: str, events: Sequence[specimens.Event], *, structured: bool, json: bool) -> None:
    declared = {of.setting: of.name for of in topics.catalogue(settings).all()}
    try:
        written = records.produce(settings, topic, (specimens.record(event, structured=structured) for event in events))
    except errors.Refused as exc:
        if exc.code != "unknown_topic":
            raise
        raise errors.Refused(
            f"{topic} is neither a function ({', '.join(addresses.functions())}) nor a topic of {settings.kafka_brokers} "
            f"(declared are {', '.join(declared.values())})"
        ) from exc
    if json:
        terminal.as_json([{"topic": topic, "partition": partition, "offset": offset} for partition, offset in written])
    else:
        terminal.note(f"{len(written)} event{'' if len(written) == 1 else 's'} written to {topic}")


def _sent(client: httpx.Client, url: str, event: specimens.Event, *, binary: bool) -> Answer:
    headers, body = specimens.request(event, binary=binary)
    response = _post(client, url, headers, body)
    return {"id": event["id"], "status": response.status_code} | _facts(response)


def _sent_together(client: httpx.Client, url: str, events: Sequence[specimens.Event]) -> list[Answer]:
    headers, body = specimens.batch_request(events)
    response = _post(client, url, headers, body)
    facts = _facts(response)
    results = facts.get("results")
    if response.status_code in {200, 207} and isinstance(results, list) and len(results) == len(events):
        return [{"id": event["id"]} | _result(of) for event, of in zip(events, results, strict=True)]
    if response.status_code in range(200, 300):
        raise errors.Unavailable(f"{url} answered {response.status_code} without one result for each event: that is no answer")
    return [{"id": event["id"], "status": response.status_code} | facts for event in events]


def _result(of: Any) -> Answer:
    return of if isinstance(of, dict) and isinstance(of.get("status"), int) else {"status": 0, "detail": "the result is unreadable"}


def _post(client: httpx.Client, url: str, headers: dict[str, str], body: bytes) -> httpx.Response:
    try:
        return client.post(url, headers=headers, content=body)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise errors.Unavailable(f"{url} gave no answer: {exc or type(exc).__name__} (`orderflow status` shows what runs)") from exc


def _facts(response: httpx.Response) -> Answer:
    try:
        found = response.json()
    except ValueError:
        return {"detail": response.text[:1024]}
    return found if isinstance(found, dict) else {"detail": response.text[:1024]}


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    found = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise terminal.usage(f"{option} {pair!r}: must be name=value")
        found[name] = value
    return found


def _content(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as exc:
        raise terminal.usage(f"{file}: {exc.strerror}") from exc

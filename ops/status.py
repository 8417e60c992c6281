"""`orderflow status`: what runs, where it is, and whether it answers."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

import httpx
import typer

from ops import home, kafka, notices, terminal
from shared import config, database, errors, topics
from shared.config import Settings

_ANSWER_S = 3.0
_SOURCE_FIELDS = ("topic", "group", "lag", "state", "reason", "since")
_RELAY_FIELDS = ("pending", "due", "failed", "oldest_due_seconds")


@terminal.failures()
def status(*, json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False) -> None:
    """Say what runs, where it is, and what is not ready. Exit code 1 when anything is not, or when nothing runs."""
    settings = config.load()
    told = home.read_run(home.folder())
    if told is None:
        raise errors.Unavailable(
            f"nothing runs with {home.folder()}: `make run` (or `orderflow up`) starts everything; "
            "ORDERFLOW_HOME chooses another folder", code="nothing_runs"
        )  # fmt: skip
    found = look(told, settings)
    if json:
        terminal.as_json({name: part for name, part in found.items() if name != "source"})
    else:
        _show(found)
    if not is_ready(found):
        raise typer.Exit(terminal.FAILED)


def look(told: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Ask every process that `told`, the run file, names. Nothing is raised: what does not answer is not ready."""
    functions: Mapping[str, Mapping[str, Any]] = told["functions"]
    source_url, relay_url = told["source"]["url"], told["relay"]["url"]
    with ThreadPoolExecutor(len(functions) + 5) as threads:
        broker = threads.submit(_answers, partial(_ask_kafka, told["kafka"], settings))
        server = threads.submit(_answers, partial(_ask_postgres, told["postgres"], settings))
        ready = {name: threads.submit(_answers, partial(_get, f"{of['url']}/ready")) for name, of in functions.items()}
        sources = threads.submit(_asked, f"{source_url}/sources")
        relay_ready = threads.submit(_answers, partial(_get, f"{relay_url}/ready"))
        relay = threads.submit(_asked, f"{relay_url}/status")
    told_sources = sources.result().get("sources")
    return {
        "kafka": {"brokers": told["kafka"]["brokers"]} | broker.result() | _process(told["kafka"]),
        "postgres": {"dsn": notices.without_password(told["postgres"]["dsn"])} | server.result() | _process(told["postgres"]),
        "functions": {name: {"url": of["url"]} | ready[name].result() | _process(of) for name, of in functions.items()},
        "sources": {name: {field: of.get(field) for field in _SOURCE_FIELDS} for name, of in (told_sources or _unknown(settings)).items()},
        "source": {"url": source_url, "ready": bool(told_sources)} | _process(told["source"]),
        "relay": {"url": relay_url}
        | relay_ready.result()
        | {field: relay.result().get(field) for field in _RELAY_FIELDS}
        | _process(told["relay"]),
    }


def is_ready(found: Mapping[str, Any]) -> bool:
    """Whether everything in a `look` is ready, and every source reads."""
    parts = [found["kafka"], found["postgres"], found["source"], found["relay"], *found["functions"].values()]
    return all(part["ready"] for part in parts) and all(of["state"] == "running" for of in found["sources"].values())


def _unknown(settings: Settings) -> dict[str, dict[str, Any]]:
    """The sources as contracts/topics.yaml has them, while their process does not answer."""
    return {
        consumer.source: {"topic": topic.name, "group": consumer.group, "state": "away"}
        for topic, consumer in topics.catalogue(settings).consumers()
    }


def _process(told: Mapping[str, Any]) -> dict[str, Any]:
    return {field: told[field] for field in ("pid", "restarts") if field in told}


def _answers(ask: Callable[[], object]) -> dict[str, Any]:
    try:
        ask()
    except Exception as exc:  # noqa: BLE001 - whatever went wrong is the answer
        return {"ready": False, "reason": str(exc) or type(exc).__name__}
    return {"ready": True}


def _asked(url: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = _get(url).json()
    except (errors.OrderflowError, httpx.HTTPError, ValueError):
        return {}
    return found


def _get(url: str) -> httpx.Response:
    answer = httpx.get(url, timeout=_ANSWER_S, trust_env=False)
    if answer.status_code != 200:
        raise errors.Unavailable(f"{answer.status_code}: {answer.text[:200]}")
    return answer


def _ask_kafka(told: Mapping[str, Any], settings: Settings) -> None:
    security = {} if told.get("ours") else settings.kafka_client()
    kafka.Probe(str(told["brokers"]), security | {"bootstrap.servers": str(told["brokers"])})()


def _ask_postgres(told: Mapping[str, Any], settings: Settings) -> None:
    dsn = str(told["dsn"]) if told.get("ours") else settings.postgres_dsn("order")
    found = database.Database(dsn, settings=settings, application="orderflow-status")
    try:
        found.transact(lambda tx: tx.run("SELECT 1"))
    finally:
        found.close()


def _show(found: Mapping[str, Any]) -> None:
    rows = [("kafka", found["kafka"]["brokers"], found["kafka"]), ("postgres", found["postgres"]["dsn"], found["postgres"])]
    rows += [(name, of["url"], of) for name, of in found["functions"].items()]
    rows += [(name, found[name]["url"], found[name]) for name in ("source", "relay")]
    terminal.table(
        ["process", "address", "ready", "pid", "restarts", "why"],
        [(name, where, "yes" if of["ready"] else "no", of.get("pid"), of.get("restarts"), of.get("reason")) for name, where, of in rows],
    )
    terminal.say("")
    terminal.table(
        ["source", "topic", "group", "lag", "state", "why"],
        [(name, of["topic"], of["group"], of["lag"], of["state"], of["reason"]) for name, of in found["sources"].items()],
    )
    relay = found["relay"]
    terminal.say("")
    terminal.say(
        f"outbox: {_count(relay['pending'])} pending, {_count(relay['due'])} due, {_count(relay['failed'])} set aside"
        + (" (`orderflow outbox list` shows them)" if relay["failed"] else "")
    )


def _count(value: object) -> str:
    return "?" if value is None else str(value)

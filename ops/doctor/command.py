"""`orderflow doctor`: look at settings, manifests, Kafka and PostgreSQL, and say what loses data, stops something or surprises."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from ops import home, terminal
from ops.doctor import brokers, checks, clocks, files, groups, kafka_facts, postgres_facts, servers, sources, tables, times
from ops.doctor import settings as environment
from ops.doctor import topics as live_topics
from ops.doctor.codes import CODES
from ops.doctor.facts import Facts
from ops.doctor.findings import Exit, Level, Report
from shared import broker, config, errors, masking, topics
from shared.config import Settings

# Where checks are: each says so when it is imported.
CHECKED = (environment, times, sources, brokers, live_topics, groups, tables, servers, clocks)
_OF_FILES = {"pods", "openfaas", "sources", "unreadable", "archive"}
_COLOURS = {Level.RED: "bold red", Level.AMBER: "yellow", Level.GREEN: "green"}


@terminal.failures()
def doctor(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail for what surprises, too, not only for what loses data or stops.")] = False,
    prod: Annotated[
        bool | None, typer.Option("--prod/--no-prod", help="Whether this is production.", show_default="where more than one broker answers")
    ] = None,
    manifests: Annotated[
        Path | None,
        typer.Option(help="KafkaSource manifests: a file, a folder, or an overlay.", show_default="infra/knative/sources.yaml"),
    ] = None,
    openfaas: Annotated[
        Path | None, typer.Option(help="The folder with OpenFaaS's gateway.yaml and env/.", show_default="infra/openfaas")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Look at the brokers' clocks as well: it takes a topic of its own, which is deleted again.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Name the checks that are in order, too.")] = False,
) -> None:
    """Name settings that lose data, stop something or surprise, with what to do. Nothing is changed.

    Run it with the environment of what you look at. Exit code 0: nothing red; 1: something red; 3: not everything could be examined.
    """
    report = checks.run(gathered(prod=prod, manifests=manifests, openfaas=openfaas, write=write))
    if json:
        terminal.as_json(report.as_json(CODES))
    else:
        _show(report, every=every)
    code = report.exit(CODES, strict=strict)
    if code is not Exit.GREEN:
        raise typer.Exit(code)


def gathered(*, prod: bool | None = None, manifests: Path | None = None, openfaas: Path | None = None, write: bool = False) -> Facts:
    """Everything that can be found out here and now. Raises nothing for what cannot: it is left, with its reason."""
    facts = Facts(declared=topics.read(), now_s=time.time(), refused=())
    facts = files.with_openfaas(files.with_manifests(facts, manifests), openfaas)
    try:
        settings = _used(config.load())
    except errors.ConfigError as exc:
        return _refused(facts, exc)
    return seen(facts.with_(settings=settings), settings, prod=prod, write=write)


def seen(facts: Facts, settings: Settings, *, prod: bool | None, write: bool) -> Facts:
    """`facts`, and what the servers of `settings` say. Raises nothing."""
    try:
        facts = facts.with_(catalogue=(catalogue := topics.catalogue(settings)))
        broker.check(settings)
        placed = postgres_facts.placed(settings)
    except errors.ConfigError as exc:
        return _refused(facts, exc)
    facts = kafka_facts.with_kafka(facts.with_(placed=placed), settings, catalogue, prod=prod)
    facts = postgres_facts.with_postgres(facts, settings, catalogue, placed)
    if write:
        try:
            facts = facts.with_(clocks=[*(facts.clocks or ()), *kafka_facts.clocks(settings)])
        except errors.OrderflowError as exc:
            facts = facts.with_(left=dict(facts.left) | {"clocks": exc.detail})
    return facts


def _used(settings: Settings) -> Settings:
    """`settings` with the addresses of the servers that `orderflow up` started, where the environment names none."""
    told = home.read_run(home.folder()) or {}
    update: dict[str, object] = {}
    if told.get("kafka", {}).get("ours") and not _is_set("KAFKA_BROKERS"):
        update["kafka_brokers"] = told["kafka"]["brokers"]
    if told.get("postgres", {}).get("ours") and not _is_set("ORDER_POSTGRES_DSN"):
        masking.keep_secret([told["postgres"]["dsn"]])
        update["postgres_dsns"] = settings.postgres_dsns | {"order": SecretStr(told["postgres"]["dsn"])}
    return settings.model_copy(update=update) if update else settings


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name) or os.environ.get(f"{name}_FILE"))


def _refused(facts: Facts, exc: errors.ConfigError) -> Facts:
    """What is known without settings that can be used: everything else is left."""
    unknown = [field.name for field in dataclasses.fields(Facts) if getattr(facts, field.name) is None and field.name not in _OF_FILES]
    return facts.with_(
        refused=exc.faults, left=dict(facts.left) | dict.fromkeys(unknown, "a setting is wrong, so nobody knows where to look")
    )


def _show(report: Report, *, every: bool) -> None:
    for finding in report.findings:
        code = CODES[finding.code]
        terminal.say(f"{code.level.upper():5}  {finding.code}: {masking.text(finding.what)}", _COLOURS[code.level])
        terminal.say(f"       {code.why}")
        terminal.say(f"       do: {masking.text(finding.do)}")
    for left in report.left:
        terminal.say(f"?      not examined ({', '.join(left.codes)}): {masking.text(left.reason)}", "magenta")
    for name in report.in_order if every else ():
        terminal.say(f"GREEN  {name}", _COLOURS[Level.GREEN])
    told = [f"{len(report.in_order)} checks are in order"]
    told += [
        f"{count} {level}" for level in (Level.RED, Level.AMBER) if (count := sum(CODES[of.code].level is level for of in report.findings))
    ]
    told += [f"{count} not examined"] if (count := sum(len(left.codes) for left in report.left)) else []
    terminal.say(", ".join(told), _COLOURS[report.level(CODES)] if not report.left or report.findings else "magenta")

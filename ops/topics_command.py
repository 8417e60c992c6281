"""`orderflow topics`: the topics of contracts/topics.yaml, and records in and out of any topic."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from ops import records, terminal, topics_admin
from shared import config, topics

app = typer.Typer(no_args_is_help=True, help="Topics as contracts/topics.yaml declares them, and records in and out of any topic.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
@terminal.failures()
def create(
    names: Annotated[list[str] | None, typer.Argument(help="Only these of the declared topics.", show_default="all of them")] = None,
    local: Annotated[
        bool, typer.Option(help="Do with as many replicas as there are brokers. One broker always means one replica.")
    ] = False,
    apply: Annotated[bool, typer.Option(help="Also change settings that differ on topics that exist. Partitions only ever grow.")] = False,
    json: Json = False,
) -> None:
    """Create every topic of contracts/topics.yaml, under the names that the environment gives; show what differs on those that exist."""
    settings = config.load()
    declared = topics.catalogue(settings).all()
    unknown = set(names or ()) - {topic.name for topic in declared}
    if unknown:
        raise terminal.usage(f"{', '.join(sorted(unknown))}: not declared in contracts/topics.yaml")
    wanted = [topic for topic in declared if not names or topic.name in names]
    made = topics_admin.Admin(settings).create(wanted, local=local, apply=apply)
    if json:
        terminal.as_json([{"topic": of.topic, "action": of.action, "partitions": of.partitions, "notes": of.notes} for of in made])
        return
    terminal.table(["topic", "partitions", "what was done"], [(of.topic, of.partitions, of.action) for of in made])
    for line in dict.fromkeys(line for of in made for line in of.notes):
        concerned = [of.topic for of in made if line in of.notes]
        terminal.note(f"{'every topic' if len(concerned) == len(made) > 1 else ', '.join(concerned)}: {line}", style="yellow")


@app.command(name="list")
@terminal.failures()
def listed(
    internal: Annotated[bool, typer.Option("--all", help="Kafka's own topics too.")] = False,
    json: Json = False,
) -> None:
    """List the topics of the broker, and the declared ones that are missing."""
    settings = config.load()
    declared = {topic.name: topic for topic in topics.catalogue(settings).all()}
    there = topics_admin.Admin(settings).partitions(internal=internal)
    rows: list[dict[str, Any]] = [
        {
            "topic": name,
            "partitions": there.get(name, (None, None))[0],
            "replicas": there.get(name, (None, None))[1],
            "declared": name in declared,
            "groups": [consumer.group for consumer in declared[name].consumers] if name in declared else [],
        }
        for name in sorted({*declared, *there})
    ]
    if json:
        terminal.as_json(rows)
        return
    terminal.table(
        ["topic", "partitions", "replicas", "declared", "consumer groups"],
        [
            (row["topic"], row["partitions"] or "missing", row["replicas"], "yes" if row["declared"] else "no", ", ".join(row["groups"]))
            for row in rows
        ],
    )


@app.command()
@terminal.failures()
def describe(
    names: Annotated[list[str], typer.Argument(help="The topics.")],
    json: Json = False,
) -> None:
    """Show partitions, leaders, replicas, offsets and settings of topics."""
    admin = topics_admin.Admin(config.load())
    found = [admin.describe(name) for name in names]
    if json:
        terminal.as_json([dataclasses.asdict(of) for of in found])
        return
    for of in found:
        terminal.say(f"{of.topic}  id {of.topic_id}", style="bold")
        terminal.table(
            ["partition", "leader", "replicas", "in sync", "first offset", "next offset", "records at most"],
            [
                (p.number, p.leader, _ids(p.replicas), _ids(p.in_sync), p.first_offset, p.next_offset, p.next_offset - p.first_offset)
                for p in of.partitions
            ],
        )
        terminal.table(["setting", "value"], sorted(of.config.items()))


@app.command()
@terminal.failures()
def delete(
    names: Annotated[list[str], typer.Argument(help="The topics.")],
    yes: Yes = False,
) -> None:
    """Delete topics with all their records."""
    admin = topics_admin.Admin(config.load())
    admin.known(names)
    terminal.confirm(f"Delete {', '.join(names)} and every record in it?", yes=yes)
    admin.delete(names)
    terminal.note(f"deleted {', '.join(names)}")


@app.command()
@terminal.failures()
def produce(
    topic: Annotated[str, typer.Argument(help="The topic.")],
    value: Annotated[str | None, typer.Argument(help="The value as text; without it, it is read from standard input.")] = None,
    *,
    key: Annotated[str | None, typer.Option("--key", "-k", help="The record's key as text.", show_default="no key")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header; may be repeated.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the value, byte for byte, from this file.", dir_okay=False)
    ] = None,
    null: Annotated[bool, typer.Option("--null", help="A record without a value: a tombstone.")] = False,
    lines: Annotated[bool, typer.Option("--lines", help="One record for each line of the file or of standard input.")] = False,
    key_separator: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --lines: what parts the key from the value in each line.")
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="The partition.", show_default="by the key")] = None,
    json: Json = False,
) -> None:
    """Write a record, or with --lines many, and wait until Kafka confirms it."""
    if sum((value is not None, file is not None, null)) > 1:
        raise terminal.usage("give the value as an argument, by --file, or say --null: one of them")
    if key_separator and not lines:
        raise terminal.usage("--key-separator needs --lines")
    if lines and (value is not None or null):
        raise terminal.usage("--lines reads a file or standard input, and takes no value and no --null")
    shared_headers = tuple(records.headers_of(header or []))
    if lines:
        wanted = records.keyed_lines(file, key, key_separator, shared_headers)
    else:
        wanted = iter([records.Record(records.encoded(key), None if null else records.value_of(value, file), shared_headers)])
    written = records.produce(config.load(), topic, wanted, partition=partition)
    if json:
        terminal.as_json([{"topic": topic, "partition": number, "offset": offset} for number, offset in written])
    elif len(written) == 1:
        terminal.note(f"written to {topic}, partition {written[0][0]}, offset {written[0][1]}")
    else:
        terminal.note(f"{len(written)} records written to {topic}")


@app.command()
@terminal.failures()
def consume(
    names: Annotated[list[str] | None, typer.Argument(metavar="TOPIC...", help="The topics.", show_default=False)] = None,
    *,
    letters: Annotated[bool, typer.Option("--dead-letters", help="Every dead-letter topic of contracts/topics.yaml.")] = False,
    start: Annotated[
        records.Start, typer.Option("--from", help="The first record of each partition, or only those that are yet to come.")
    ] = records.Start.beginning,
    limit: Annotated[int | None, typer.Option("--max", min=1, help="Stop after so many records.", show_default="no limit")] = None,
    until_end: Annotated[bool, typer.Option("--until-end", help="Stop at what is the end when it starts.")] = False,
    idle: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Stop when nothing came for so long, such as 5s.", show_default="never")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object for each record; bytes that are not UTF-8 as base64.")] = False,
) -> None:
    """Show records with keys and headers until Ctrl-C. It joins no consumer group and commits nothing."""
    try:
        idle_s = config.seconds(idle) if idle else None
    except ValueError as exc:
        raise terminal.usage(f"--idle {exc}") from exc
    settings = config.load()
    wanted = [*(names or ()), *(topic.name for topic in topics.catalogue(settings).dead_letter_topics if letters)]
    if not wanted:
        raise terminal.usage("name a topic, or say --dead-letters")
    shown = records.show(settings, wanted, start=start, limit=limit, until_end=until_end, idle_s=idle_s, json=json)
    terminal.note(f"{shown} record{'' if shown == 1 else 's'}")


def _ids(nodes: tuple[int, ...]) -> str:
    return ",".join(map(str, nodes))

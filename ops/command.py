"""`orderflow`, the command. Only the part that is called is imported, so that `orderflow --help` is quick."""

import importlib
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

# name → (module, attribute, help line). An attribute that is a function becomes a command, a Typer app a group of them.
PARTS = {
    "up": ("ops.up", "up", "Start everything, and keep it running until Ctrl-C."),
    "status": ("ops.status", "status", "Say what runs, where it is, and what is not ready."),
    "demo": ("ops.demo", "demo", "Place 5 orders and one poison record, and watch what becomes of them."),
    "demo-dead-letters": ("ops.demo_dead_letters", "demo_dead_letters", "Break things, find the causes, edit, replay, and count."),
    "topics": ("ops.topics_command", "app", "Topics as contracts/topics.yaml declares them, and records in and out."),
    "event": ("ops.events_command", "app", "Make an event, send it to a function or a topic."),
    "dlq": ("ops.dlq.command", "app", "Dead letters: by cause, one by one; edit, replay, discard, archive."),
    "outbox": ("ops.outbox_command", "app", "Outbox rows that could not be published: list, retry, discard."),
    "replay": ("ops.dlq.events_command", "replay", "Events of a topic, a file or the archive, sent once more."),
    "sources": ("ops.sources_command", "app", "The Kafka sources: list, pause, resume."),
    "doctor": ("ops.doctor.command", "doctor", "Name settings that lose data, stop something or surprise, with what to do."),
    "contracts": ("ops.contracts", "app", "Topics, AsyncAPI, schemas, manifests and code: check, generate."),
    "kafka": ("ops.kafka_command", "app", "A local broker alone: up, down, reset."),
    "migrate": ("ops.migrations", "migrate", "Bring the tables up to date."),
}


def main() -> None:
    """Run the command line of this process."""
    try:
        _root(sys.argv[1] if len(sys.argv) > 1 else "")(prog_name="orderflow")
    except KeyboardInterrupt:
        sys.exit(130)


def _root(called: str) -> typer.Typer:
    root = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Paid orders become assembled, announced orders: run it, look into it, put right what failed.",
    )
    root.callback(invoke_without_command=True)(_options)  # or --version, which is no command, would miss one
    for name in [called] if called in PARTS else PARTS:
        module, attribute, line = PARTS[name]
        part: Any = getattr(importlib.import_module(module), attribute) if name == called else _listed_only
        if isinstance(part, typer.Typer):
            root.add_typer(part, name=name)
        else:
            root.command(name=name, help=line if name != called else None)(part)
    return root


def _listed_only() -> None:
    """Stand in the help for a part that was not called."""


def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        sys.stdout.write(f"orderflow {metadata.version('orderflow')}\n")
        raise typer.Exit

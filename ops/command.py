"""`orderflow`, the command. Each part is imported only when it is called, so that `orderflow --help` is quick."""

import importlib
import sys
from typing import Any

import click
import typer
from typer.main import get_command

# name → (module, attribute, help line). An attribute that is a function becomes a command, a Typer app a group.
_PARTS = {
    "up": ("ops.up", "up", "Start everything, and keep it running until Ctrl-C."),
    "status": ("ops.status", "status", "Say what runs, where it is, and what is not ready."),
    "demo": ("ops.demo", "demo", "Place 5 orders and one poison record, and watch what becomes of them."),
    "topics": ("ops.topics_command", "app", "Topics as contracts/topics.yaml declares them, and records in and out of any topic."),
    "event": ("ops.events_command", "app", "Make an event and send it to a function or a topic."),
    "outbox": ("ops.outbox_command", "app", "Outbox rows that could not be published: list, retry, discard."),
    "sources": ("ops.sources_command", "app", "The Kafka sources: list, pause, resume."),
    "contracts": ("ops.contracts", "app", "Topics, AsyncAPI, schemas, manifests and code: check, generate."),
    "kafka": ("ops.kafka_command", "app", "The local broker alone: up, down, reset."),
    "migrate": ("ops.migrations", "migrate", "Bring the tables up to date."),
}


class _Parts(click.Group):
    """Commands by name, each loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_PARTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _PARTS:
            return None
        module, attribute, _ = _PARTS[cmd_name]
        part: Any = getattr(importlib.import_module(module), attribute)
        if not isinstance(part, typer.Typer):
            alone = typer.Typer(add_completion=False)
            alone.command(name=cmd_name)(part)
            part = alone
        part.pretty_exceptions_enable = False
        command = get_command(part)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _PARTS.items()])


@click.group(cls=_Parts, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="orderflow", prog_name="orderflow")
def _root() -> None:
    """Paid orders become assembled, announced orders: run it, look into it, put right what failed."""


def main() -> None:
    """Run the command line of this process."""
    sys.exit(_root.main(prog_name="orderflow", standalone_mode=True))

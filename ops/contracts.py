"""`orderflow contracts`: the schemas and deployment files made from what they repeat, and the check that contracts and code agree."""

import json
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from ops import agreement, home, letters, terminal
from ops.deployments import rendering
from shared import config, errors, events, retention

SCHEMAS = home.CHECKOUT / "contracts" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

app = typer.Typer(no_args_is_help=True, help="The files made from the models and topics.yaml, and the check that contracts and code agree.")


@app.command()
@terminal.failures()
def generate() -> None:
    """Write contracts/schemas from the models, and the deployment files from their templates."""
    SCHEMAS.mkdir(parents=True, exist_ok=True)
    schemas = rendered()
    for stale in {path.name for path in SCHEMAS.glob("*.json")} - schemas.keys():
        (SCHEMAS / stale).unlink()
    wanted = {SCHEMAS / name: text for name, text in schemas.items()}
    wanted |= {home.CHECKOUT / name: text for name, text in rendering.rendered().items()}
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            terminal.note(f"wrote {path.relative_to(home.CHECKOUT)}")


@app.command()
@terminal.failures()
def check() -> None:
    """Check that topics.yaml, AsyncAPI, schemas, manifests, deployment files and code say the same. Exit code 1 when not."""
    faults = schema_faults(SCHEMAS) + rendering.faults() + agreement.faults(home.CHECKOUT) + _forgotten_too_soon()
    for fault in faults:
        terminal.complain(fault)
    if faults:
        raise typer.Exit(terminal.FAILED)
    terminal.note("topics, AsyncAPI, schemas, manifests, deployment files and code agree")


def _forgotten_too_soon() -> list[str]:
    """Settings of this environment by which an inbox would forget an event that a topic still has."""
    try:
        retention.check(config.load())
    except errors.ConfigError as exc:
        return list(exc.faults)
    return []


def rendered() -> dict[str, str]:
    """Every schema file by its name, as it is to be."""
    models: dict[str, type[BaseModel]] = dict(events.known()) | {"dead-letter": letters.DeadLetter}
    return {f"{name}.json": json.dumps(_schema(name, model), indent=2, ensure_ascii=False) + "\n" for name, model in sorted(models.items())}


def schema_faults(folder: Path) -> list[str]:
    """How the files of `folder` differ from what the models say."""
    wanted = rendered()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    told = dict.fromkeys(wanted.keys() - found.keys(), "is missing") | dict.fromkeys(found.keys() - wanted.keys(), "is of no model")
    return [
        f"contracts/schemas/{name} {told.get(name, 'is not what its model says')}; `orderflow contracts generate` renews it"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def _schema(name: str, model: type[BaseModel]) -> dict[str, Any]:
    made = model.model_json_schema()
    for field in made["properties"].values():
        field.pop("title", None)
    if issubclass(model, events.Event):
        # It has a default for those who make one, but a reader tells an event by nothing else.
        made["required"] = [*made["required"], "event_type"]
        made["properties"]["event_type"].pop("default", None)
        made["properties"]["event_version"]["enum"] = sorted(model.VERSIONS)
    return {"$schema": DIALECT, "$id": f"urn:orderflow:{name}", "title": model.__name__} | made

"""A Compose file as Compose reads it: YAML with its merges, then variables in every text, then the fields that we use and their forms.

The schema holds what Compose 1.29 and v2 both take; a field that is not in it has to be looked up in both first.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from ops import home

ALL, KAFKA, BESIDE_A_GATEWAY = (
    home.CHECKOUT / name for name in ("docker-compose.yml", "docker-compose.kafka.yml", "infra/openfaas/docker-compose.yml")
)
SECRETS = "/run/secrets/"
_SCHEMA = json.loads(Path(__file__).with_name("compose.schema.json").read_text(encoding="utf-8"))
# $$, ${NAME}, ${NAME:-default}, or a lone $, which is an error.
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}|(?P<wrong>))")


class ComposeError(Exception):
    """The file is not what Compose takes."""


def read(path: Path = ALL, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file at `path` with the variables of `environ`, and with no variables by default. Raises ComposeError with every fault."""
    found = _interpolated(yaml.load(path.read_text(encoding="utf-8"), _Loader), environ or {})  # noqa: S506  it is a safe one
    faults = [
        f"{'.'.join(map(str, fault.absolute_path))}: {fault.message}" for fault in jsonschema.Draft7Validator(_SCHEMA).iter_errors(found)
    ]
    if faults:
        raise ComposeError("\n".join(faults))
    return found


def services(path: Path = ALL, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Every service of the file by its name."""
    return read(path, environ)["services"]


def texts(value: object, *, keys: bool = False) -> Iterator[str]:
    """Every text in `value`, at any depth."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from [key] if keys else []
            yield from texts(one, keys=keys)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one, keys=keys)
    elif isinstance(value, str):
        yield value


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key which is there twice, as Compose v2 does: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge"]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ComposeError(f"{', '.join(sorted(twice))}: there twice, {node.start_mark}")
        return super().construct_mapping(node, deep)


def _interpolated(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _interpolated(one, environ) for key, one in value.items()}
    if isinstance(value, list):
        return [_interpolated(one, environ) for one in value]
    return _VARIABLE.sub(lambda match: _value(match, environ), value) if isinstance(value, str) else value


def _value(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match["escaped"]:
        return "$"
    if match["name"] is None:
        raise ComposeError(f"a $ that begins no variable: {match.string!r}")
    return environ.get(match["name"]) or match["default"] or ""

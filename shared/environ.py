"""The process's environment as values of settings: files that hold secrets, and names with a consumer, a topic or a property in them."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# librdkafka's own names, in environment spelling: KAFKA_SASL_USERNAME is sasl.username.
_LIBRDKAFKA_PREFIXES = ("KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_")
_PER_CONSUMER = re.compile(
    r"(?P<consumer>[A-Z][A-Z0-9_]*?)_(?P<name>POSTGRES_DSN|KAFKA_RETRY_MAX_ATTEMPTS|KAFKA_RETRY_BACKOFF_BASE|PARKING)"
)


def read(environ: Mapping[str, str], fields: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """`environ` without empty values and with every NAME_FILE read into NAME, which wins where both are set; and what could not be read.

    An empty file is a setting that is not set, as an empty value is. Not so the delivery token: without one everybody may deliver.
    """
    given = {name.upper(): value for name, value in environ.items() if value}
    found, faults = dict(given), []
    for name, path in given.items():
        wanted = name.removesuffix("_FILE")
        ours = wanted.lower() in fields or wanted.endswith("_POSTGRES_DSN") or wanted.startswith(_LIBRDKAFKA_PREFIXES)
        if wanted == name or not ours:
            continue
        del found[name]
        if wanted in given:
            continue
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as exc:
            faults.append(f"{name}: {path} cannot be read: {exc}")
            continue
        if text:
            found[wanted] = text
        elif wanted == "DELIVERY_TOKEN":
            faults.append(f"{name}: {path} is empty, and without a token everybody may deliver; unset {name} where that is meant")
    if "DELIVERY_TOKEN" not in found and not any(fault.startswith("DELIVERY_TOKEN") for fault in faults):
        empty = [name for name in environ if name.upper() in {"DELIVERY_TOKEN", "DELIVERY_TOKEN_FILE"}]
        faults += [f"{name}: is empty, and without a token everybody may deliver; unset it where that is meant" for name in empty]
    return found, faults


def patterned(found: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The settings whose names hold a consumer, a topic or a librdkafka property."""
    made: dict[str, dict[str, Any]] = {"postgres_dsns": {}, "retries": {}, "parking": {}, "kafka_security": {}, "overrides": {}}
    for name, value in found.items():
        match = _PER_CONSUMER.fullmatch(name)
        if match and match["name"] == "POSTGRES_DSN":
            made["postgres_dsns"][match["consumer"].lower()] = value
        elif match and match["name"] == "PARKING":
            made["parking"][match["consumer"].lower()] = value
        elif match:
            field = "max_attempts" if match["name"].endswith("ATTEMPTS") else "backoff_base_s"
            made["retries"].setdefault(match["consumer"].lower(), {})[field] = value
        elif name.startswith(_LIBRDKAFKA_PREFIXES):
            made["kafka_security"][name.removeprefix("KAFKA_").lower().replace("_", ".")] = value
        elif re.fullmatch(r"KAFKA_TOPIC|KAFKA_\w+_(TOPIC|GROUP_ID)", name):
            made["overrides"][name] = value
    return made


def name(location: tuple[int | str, ...]) -> str:
    """The variable of a field: the other way round."""
    if location[0] == "parking" and len(location) == 2:
        return f"{str(location[1]).upper()}_PARKING"
    if location[0] == "retries" and len(location) == 3:
        name = {"max_attempts": "KAFKA_RETRY_MAX_ATTEMPTS", "backoff_base_s": "KAFKA_RETRY_BACKOFF_BASE"}[str(location[2])]
        return f"{str(location[1]).upper()}_{name}"
    return "_".join(str(part) for part in location).upper()

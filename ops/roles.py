"""The login roles: one for each kind of process, so that a fault or a leak in one reaches only its own tables.

A consumer's role follows from its row in contracts/topics.yaml; contracts/roles.yaml has those that no consumer implies.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ops import home
from shared import errors, masking, topics


@dataclass(frozen=True)
class Role:
    """A login role. Its DSN is <CONSUMER>_POSTGRES_DSN of its process."""

    name: str
    consumer: str
    process: str

    def password(self, environ: Mapping[str, str] = os.environ) -> str:
        """<ROLE>_PASSWORD, else the file that <ROLE>_PASSWORD_FILE names, else the local default. Raises ConfigError."""
        setting = f"{self.name.upper()}_PASSWORD"
        path = environ.get(f"{setting}_FILE")
        try:
            found = environ.get(setting) or (Path(path).read_text(encoding="utf-8").strip() if path else f"{self.name}_password")
        except (OSError, UnicodeDecodeError) as exc:
            raise errors.ConfigError([f"{setting}_FILE: {path} cannot be read: {exc}"]) from exc
        if not found or not found.isascii() or not found.isprintable():
            raise errors.ConfigError([f"{setting}: must be printable ASCII characters"])
        masking.keep_secret([found])
        return found


def read(checkout: Path = home.CHECKOUT) -> list[Role]:
    """Every login role: those of roles.yaml, then the consumers' as topics.yaml has them. Raises ConfigError."""
    path = checkout / "contracts" / "roles.yaml"
    try:
        found = [Role(**row) for row in yaml.safe_load(path.read_text(encoding="utf-8"))["roles"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as exc:
        raise errors.ConfigError([f"{path}: {exc}"]) from exc
    consumers = topics.read(checkout / "contracts" / "topics.yaml").consumers()
    implied = [Role(consumer.login, consumer.role, consumer.function) for _, consumer in consumers]
    return list(dict.fromkeys([*found, *implied]))

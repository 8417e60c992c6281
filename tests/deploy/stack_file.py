"""stack.yml as faas-cli reads it: variables first, then YAML, then each function's environment files over its own environment."""

import functools
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ops import home

FILE = home.CHECKOUT / "stack.yml"
SECRETS = "/var/openfaas/secrets/"
WATCHDOG = {"read_timeout", "write_timeout", "exec_timeout", "healthcheck_interval"}  # of-watchdog's settings that an environment may have
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")

# Go's YAML takes any scalar where faas-cli wants text, but what it makes of `true` or 1.10 is nobody's wish: text must be text here.
Text = Annotated[str, Field(min_length=1)]
Version = Annotated[str, BeforeValidator(str)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")  # faas-cli passes over what it does not know, without a word


class Resources(_Part):
    memory: Text
    cpu: Text


class Function(_Part):
    lang: Text
    handler: Text
    image: Text
    build_args: dict[str, Text]
    environment: dict[str, Text]
    environment_file: tuple[Text, ...]
    secrets: tuple[Text, ...]
    readonly_root_filesystem: bool
    requests: Resources
    limits: Resources
    labels: dict[str, Text]
    annotations: dict[str, Text]

    def given(self) -> dict[str, str]:
        """What its process finds in its environment beside what the image says: the files in their order, over the inline values."""
        found = dict(self.environment)
        for path in self.environment_file:
            found |= EnvironmentFile.model_validate(yaml.safe_load((home.CHECKOUT / path).read_text(encoding="utf-8"))).environment
        return found

    def runs_with(self) -> dict[str, str]:
        """The whole environment: the image's own, and over it what is given."""
        return image_environment() | self.given()


class EnvironmentFile(_Part):
    environment: dict[str, Text]


class Provider(_Part):
    name: Text
    gateway: Text


class Configuration(_Part):
    copied: Annotated[tuple[Text, ...], Field(alias="copy")]


class Stack(_Part):
    version: Version
    provider: Provider
    functions: dict[str, Function]
    configuration: Configuration


def read(**variables: str) -> Stack:
    """stack.yml with these variables set, and no others."""
    text = FILE.read_text(encoding="utf-8")
    return Stack.model_validate(yaml.safe_load(_VARIABLE.sub(lambda match: variables.get(match[1]) or match[2] or "", text)))


def variables() -> set[str]:
    """The variables that stack.yml asks for."""
    return {match[1] for match in _VARIABLE.finditer(FILE.read_text(encoding="utf-8"))}


@functools.cache
def image_environment() -> dict[str, str]:
    """What the template's Dockerfile puts into the environment of the process, as far as it says so in plain text."""
    text = (home.CHECKOUT / "template" / "orderflow" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    last = text.rsplit("\nFROM ", 1)[1]
    lines = [line.removeprefix("ENV ") for line in last.splitlines() if line.startswith("ENV ")]
    pairs = [pair for line in lines for pair in re.findall(r'(\w+)=("[^"]*"|\S+)', line)]
    return {name: value.strip('"') for name, value in pairs if "$" not in value}


def placed(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """`environment` with the secrets' place moved to `folder`, where each is a file whose text is a DSN or a token."""
    folder.mkdir(exist_ok=True)
    for name in named_secrets(environment):
        text = "t" * 32 if name.endswith("-token") else "postgresql://user:password@database:5432/orders"
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
    return {name: value.replace(SECRETS, f"{folder}/") for name, value in environment.items()}


def named_secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """The secrets whose files an environment names."""
    return (value.removeprefix(SECRETS) for value in environment.values() if value.startswith(SECRETS))


def legal_label(text: str, *, key: bool = False) -> bool:
    """Whether Kubernetes takes `text` as a label's value, or as a label's or annotation's key."""
    prefix, slash, name = text.rpartition("/") if key else ("", "", text)
    if slash and not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", prefix):
        return False
    inner = set(string.ascii_letters + string.digits + "-_.")
    return 0 < len(name) <= 63 and set(name) <= inner and name[0].isalnum() and name[-1].isalnum()

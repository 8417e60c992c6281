"""Building: every function's image from the context that faas-cli would lay out, and the two images that are no function.

It goes by stack.yml as faas-cli does, so what is built here is what `faas-cli build` builds. Variables: REGISTRY and TAG name the images;
BASE_IMAGE, WATCHDOG_IMAGE and CERTIFICATES are handed on as build arguments; BUILD_NETWORK is `docker build --network`.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ops import home
from shared import errors

CONNECTORS, COMMAND = "connectors", "command"
ARGUMENTS = ("BASE_IMAGE", "WATCHDOG_IMAGE", "CERTIFICATES")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
# What faas-cli leaves behind of a handler's folder, and what only a checkout has.
_NOT_COPIED = shutil.ignore_patterns("build", "template", "__pycache__")


class DockerFailed(errors.OrderflowError):
    """Docker does not do what it was asked."""

    code = "docker"


@dataclass(frozen=True)
class Image:
    """An image to build: a function of stack.yml, or one that is none."""

    name: str  # notify, connectors
    tag: str  # docker.io/orderflow/notify:latest
    function: str = ""  # the name of its folder


def images(environ: Mapping[str, str] = os.environ) -> list[Image]:
    """Every image, functions first. Raises ConfigError."""
    functions = _stack(environ)["functions"].items()
    found = [Image(name, told["image"], Path(told["handler"]).name) for name, told in functions]
    where = _substituted("${REGISTRY:-docker.io/orderflow}/%s:${TAG:-latest}", environ)
    return [*found, *(Image(name, where % name) for name in (CONNECTORS, COMMAND))]


def build(environ: Mapping[str, str] = os.environ) -> Iterator[Image]:
    """Build every image, and say each that is done. Raises ConfigError, DockerFailed."""
    arguments = {name: environ[name] for name in ARGUMENTS if environ.get(name)}
    stack = _stack(environ)
    for image in images(environ):
        if image.function:
            with tempfile.TemporaryDirectory(prefix="orderflow-build-") as folder:
                context = Path(folder)
                lay_out(stack, image.name, context)
                told = stack["functions"][image.name].get("build_args", {})
                _build(image, ["--file", str(context / "Dockerfile"), str(context)], arguments | told, environ)
        else:
            file = home.CHECKOUT / "infra" / "images" / "Dockerfile"
            _build(image, ["--file", str(file), "--target", image.name, str(home.CHECKOUT)], arguments, environ)
        yield image


def lay_out(stack: Mapping[str, Any], name: str, into: Path, checkout: Path = home.CHECKOUT) -> None:
    """The context of one function as faas-cli makes it: the template, over its function/ the handler, and in there what is copied."""
    told = stack["functions"][name]
    shutil.copytree(checkout / "template" / told["lang"], into, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(checkout / told["handler"], into / "function", dirs_exist_ok=True, ignore=_NOT_COPIED)
    for extra in stack.get("configuration", {}).get("copy", ()):
        shutil.copytree(checkout / extra, into / "function" / extra, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def docker(*arguments: str, environ: Mapping[str, str] = os.environ) -> str:
    """What the docker client prints; of `docker logs`, both streams. Raises DockerFailed with what it complains of."""
    client = shutil.which("docker")
    if client is None:
        raise DockerFailed("there is no docker client")
    streams = subprocess.STDOUT if arguments[0] == "logs" else subprocess.PIPE
    done = subprocess.run(
        [client, *arguments], env=dict(environ), stdout=subprocess.PIPE, stderr=streams, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        # The old builder says on its standard output what went wrong.
        said = "\n  ".join((done.stdout + (done.stderr or "")).strip().splitlines()[-12:])
        raise DockerFailed(f"docker {arguments[0]} ended with {done.returncode}:\n  {said}")
    return done.stdout


def _build(image: Image, options: Sequence[str], arguments: Mapping[str, str], environ: Mapping[str, str]) -> None:
    told = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    network = ["--network", environ["BUILD_NETWORK"]] if environ.get("BUILD_NETWORK") else []
    docker("build", "--quiet", *network, *told, "--tag", image.tag, *options, environ=environ)


def _stack(environ: Mapping[str, str]) -> dict[str, Any]:
    file = home.CHECKOUT / "stack.yml"
    try:
        found: dict[str, Any] = yaml.safe_load(_substituted(file.read_text(encoding="utf-8"), environ))
    except (OSError, yaml.YAMLError) as exc:
        raise errors.ConfigError([f"{file.name}: {exc}"]) from exc
    return found


def _substituted(text: str, environ: Mapping[str, str]) -> str:
    """`text` with ${NAME} and ${NAME:-default} filled in, as faas-cli fills them in."""
    return _VARIABLE.sub(lambda found: environ.get(found[1]) or found[2] or "", text)

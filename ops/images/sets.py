"""The requirement sets of the images: pinned and hashed as requirements.lock is, each with what its image imports and no more.

`python -m ops.images.sets UV` renews them; `make lock` calls it with nothing installed, so this module needs Python alone.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TEMPLATE = Path("template") / "orderflow"
IMAGES = Path("infra") / "images"
LOCK = Path("requirements.lock")
LEFT_OUT = IMAGES / "left-out.txt"
_PIN = re.compile(
    r"^([a-z0-9][a-z0-9._-]*)(?:\[[a-z0-9,-]+\])?==(\S+)(?: ; [^\\\n]+)?((?: \\\n +--hash=sha256:[0-9a-f]{64})+)\n(?: +#.*\n)*",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Pin:
    """One package of a set."""

    name: str
    version: str
    hashes: frozenset[str]
    text: str  # its lines in the file


@dataclass(frozen=True)
class RequirementSet:
    """A file of pins. Its packages are installed beside those of `beyond`, and are not repeated."""

    wanted: Path  # requirements.in
    file: Path
    beyond: "RequirementSet | None" = None

    def pins(self, checkout: Path = CHECKOUT) -> list[Pin]:
        """Its packages, without those of `beyond`."""
        return pins((checkout / self.file).read_text(encoding="utf-8"))

    def whole(self, checkout: Path = CHECKOUT) -> list[Pin]:
        """Everything that is installed where this set is."""
        return [*(self.beyond.whole(checkout) if self.beyond else ()), *self.pins(checkout)]


BASE = RequirementSet(TEMPLATE / "requirements.in", TEMPLATE / "requirements.txt")
CONNECTORS = RequirementSet(IMAGES / "connectors.in", IMAGES / "connectors.txt")
COMMAND = RequirementSet(IMAGES / "command.in", IMAGES / "command.txt", CONNECTORS)


def of_function(name: str, checkout: Path = CHECKOUT) -> RequirementSet:
    """The set of one function: the one that all have, and where it has a requirements.in, what that adds."""
    folder = Path("functions") / name
    if not (checkout / folder / "requirements.in").is_file():
        return BASE
    return RequirementSet(folder / "requirements.in", folder / "requirements.txt", BASE)


def every(checkout: Path = CHECKOUT) -> list[RequirementSet]:
    """Every set, those that others build on first."""
    own = [of_function(found.parent.name, checkout) for found in sorted(checkout.glob("functions/*/requirements.in"))]
    return [BASE, *own, CONNECTORS, COMMAND]


def pins(text: str) -> list[Pin]:
    """The packages of a requirements file."""
    return [Pin(found[1], found[2], frozenset(re.findall(r"sha256:[0-9a-f]{64}", found[3])), found[0]) for found in _PIN.finditer(text)]


def renew(uv: str, checkout: Path = CHECKOUT) -> Iterator[Path]:
    """Write every set anew, with the versions of requirements.lock."""
    for of in every(checkout):
        present = {pin.name for pin in of.beyond.whole(checkout)} if of.beyond else set()
        lines = [pin.text for pin in pins(_resolved(uv, of, checkout)) if pin.name not in present]
        head = f"# Made by `make lock` from {of.wanted}{f', beyond {of.beyond.file}' if of.beyond else ''}, with the pins of {LOCK}.\n"
        (checkout / of.file).write_text(head + "".join(lines), encoding="utf-8")
        yield of.file


def _resolved(uv: str, of: RequirementSet, checkout: Path) -> str:
    inputs = [str(of.wanted), *([str(of.beyond.wanted)] if of.beyond else [])]
    with tempfile.NamedTemporaryFile(mode="r", encoding="utf-8", suffix=".txt") as made:
        command = [uv, "pip", "compile", "--quiet", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--no-header"]
        told = ["--constraint", str(LOCK), "--override", str(LEFT_OUT), "--output-file", made.name]
        subprocess.run([*command, *told, *inputs], check=True, cwd=checkout, stdout=subprocess.DEVNULL)
        return Path(made.name).read_text(encoding="utf-8")


if __name__ == "__main__":
    for renewed in renew(sys.argv[1]):
        sys.stdout.write(f"{renewed}\n")

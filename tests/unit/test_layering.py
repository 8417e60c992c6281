"""Imports point one way, and each foreign library has one door. The rules stand in pyproject.toml, under importlinter."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops import child, home

PACKAGES = ("shared", "functions", "connectors", "ops")
# The project is installed in place, so the checkout has to be forgotten for a copy of it to be looked at.
SCRIPT = """
import sys
sys.path[:] = [sys.argv[1], *(path for path in sys.path if path not in {"", sys.argv[2]})]
sys.argv[1:] = ["--no-cache"]
from importlinter.cli import lint_imports_command
lint_imports_command()
"""


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(home.CHECKOUT)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=child.environment(COLUMNS="200"))


def test_the_layering_holds() -> None:
    done = lint(home.CHECKOUT)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("shared/events.py", "import ops.terminal", "imports point one way"),
        ("connectors/kafka_source/sink.py", "import functions.notify.messages", "imports point one way"),
        ("functions/notify/main.py", "import functions.orders.store", "functions know nothing of each other"),
        ("connectors/outbox_relay/topics.py", "import connectors.kafka_source.sink", "the source and the relay know nothing"),
        ("shared/inbox.py", "import shared.delivery", "a record's way goes one way"),
        ("functions/orders/store.py", "import pg8000", "pg8000 is imported by shared.connection alone"),
        ("functions/notify/main.py", "import confluent_kafka", "functions need no broker"),
        ("ops/terminal.py", "import functions_framework", "functions_framework is imported by shared.server alone"),
        ("shared/cloudevent.py", "import cloudevents.http", "the CloudEvents SDK is imported by ops.specimens alone"),
    ],
)
def test_a_wrong_import_breaks_its_rule(tmp_path: Path, module: str, line: str, contract: str) -> None:
    for package in PACKAGES:
        shutil.copytree(home.CHECKOUT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(home.CHECKOUT / "pyproject.toml", tmp_path)
    file = tmp_path / module
    file.write_text(f"{file.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")

    done = lint(tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert any(contract in told and told.endswith("BROKEN") for told in done.stdout.splitlines()), done.stdout


def test_shared_says_what_it_holds_and_has_no_code_at_its_root() -> None:
    text = (home.CHECKOUT / "shared" / "__init__.py").read_text(encoding="utf-8")

    assert text.startswith('"""')
    assert text.rstrip().endswith('"""')
    modules = {path.stem for path in (home.CHECKOUT / "shared").glob("*.py")} - {"__init__"}
    assert modules <= {line.split()[0] for line in text.splitlines() if line.strip()}

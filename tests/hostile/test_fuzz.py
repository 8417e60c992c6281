"""Every reader of bytes from outside, fed by the fuzzer for a fixed number of inputs; and what it has found, once more."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import fuzz.__main__ as fuzzing
from fuzz import targets
from ops import child, home

RUNS = 1500
no_wheel = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="NOTHING WAS FUZZED: atheris has no wheel for this platform"
)


@no_wheel
@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_fuzzer_breaks_no_promise(name: str, tmp_path: Path) -> None:
    kept = tmp_path / name
    kept.mkdir()
    options = [f"-runs={RUNS}", "-seed=7", *fuzzing.options_of(name, kept)]
    command = [sys.executable, "-m", "fuzz", "one", name, *options]
    ended = subprocess.run(
        command, cwd=home.CHECKOUT, env=child.environment(), capture_output=True, text=True, errors="replace", check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert f"Done {RUNS} runs" in ended.stderr, ended.stderr[-4000:]


def test_every_target_has_a_corpus_of_its_own() -> None:
    assert sorted(targets.TARGETS) == fuzzing.names()


@pytest.mark.parametrize("path", sorted((fuzzing.FOLDER / "corpus").glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_a_fuzzer_starts_from_or_has_found_breaks_no_promise(path: Path) -> None:
    targets.TARGETS[path.parent.name](path.read_bytes())

"""`python -m fuzz`: feed every target for a while, from its corpus on. See `make fuzz`.

New inputs that reach new code are kept in build/fuzz/TARGET and are where the next run goes on; one that breaks a promise is kept as
build/fuzz/TARGET-crash-…, and `python -m fuzz one TARGET FILE` runs it again. fuzz/corpus/TARGET holds what everybody starts from.
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
KEPT = FOLDER.parent / "build" / "fuzz"
INPUT_BYTES_MAX = 16_384
INPUT_TIMEOUT_S = 10
MEMORY_MB_MAX = 1024


def main(arguments: list[str]) -> int:
    """0: no promise was broken; 1: one was; 2: a wrong option, or no fuzzer for this platform."""
    if arguments[:1] == ["one"]:
        return one(arguments[1], arguments[2:])
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Feed readers with hostile bytes.")
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together")
    parser.add_argument("--target", action="append", default=[], choices=names(), help="only this one; may be repeated")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write("atheris has no wheel for this platform, and fuzzing needs it: Linux on x86_64, Python before 3.14\n")
        return 2
    chosen = options.target or names()
    seconds = max(1, round(options.minutes * 60 / len(chosen)))
    broken = [name for name in chosen if not _run(name, seconds)]
    for name in broken:
        sys.stderr.write(f"BROKEN: {name}: see {KEPT}/{name}-*\n")
    return 1 if broken else 0


def names() -> list[str]:
    """Every target."""
    return sorted(folder.name for folder in (FOLDER / "corpus").iterdir())


def one(name: str, options: list[str]) -> int:
    """Run libFuzzer over one target, in this process, with its own options (-runs, -seed, folders, files)."""
    import atheris

    with atheris.instrument_imports(include=["shared", "functions", "connectors", "ops.dlq"]):
        from fuzz import targets
    atheris.Setup([f"fuzz {name}", *options], targets.TARGETS[name])
    atheris.Fuzz()
    return 0


def options_of(name: str, kept: Path) -> list[str]:
    """libFuzzer's options for a run of one target that keeps what it finds in `kept`."""
    limits = [f"-max_len={INPUT_BYTES_MAX}", f"-timeout={INPUT_TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB_MAX}"]
    return [*limits, f"-artifact_prefix={kept.parent}/{name}-", str(kept), str(FOLDER / "corpus" / name)]


def _run(name: str, seconds: int) -> bool:
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "fuzz", "one", name, f"-max_total_time={seconds}", *options_of(name, kept)]
    ended = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, errors="replace", check=False)
    facts = [line for line in ended.stderr.splitlines() if line.startswith("Done ")]
    print(f"{name}: {time.monotonic() - began:.0f} s, {facts[-1] if facts else 'nothing was run'}", flush=True)  # noqa: T201  # what a command says
    if ended.returncode:
        sys.stderr.write(ended.stderr[-4000:])
    return ended.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

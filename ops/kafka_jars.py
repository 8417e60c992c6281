"""What the local Kafka is made of: a Java that is new enough, and jars that Maven fetches once and that match their hashes."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ops import home
from shared import errors

INFRA = home.CHECKOUT / "infra" / "kafka"
JAVA_MIN = 17


@functools.cache
def java() -> str:
    """The Java to use, JAVA_HOME's before the one of PATH. Raises Unavailable unless it is version 17 or later."""
    of_home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{of_home}/bin" if of_home else None)
    way_out = "install it (on Debian and Ubuntu: apt install openjdk-17-jre-headless), or set KAFKA_BROKERS to a broker that runs already"
    if found is None:
        raise errors.Unavailable(f"Kafka needs Java {JAVA_MIN} or later, and there is no `java`: {way_out}", code="java_missing")
    version = java_version(found)
    major = re.search(r'version "(?:1\.)?(\d+)', version)
    if major is None or int(major[1]) < JAVA_MIN:
        raise errors.Unavailable(
            f"Kafka needs Java {JAVA_MIN} or later, and {found} is {version.splitlines()[0] if version else 'unreadable'}: {way_out}",
            code="java_old",
        )
    return found


@functools.cache
def kafka_version() -> str:
    """The pinned version, from infra/kafka/pom.xml."""
    match = re.search(r"<kafka\.version>(.+?)</kafka\.version>", (INFRA / "pom.xml").read_text(encoding="utf-8"))
    return match[1] if match else "unknown"


def fetch(state: Path, say: Callable[[str], None] = lambda _line: None) -> None:
    """Have the jars of infra/kafka/pom.xml in `state`, each with the SHA-256 of jars.sha256. Raises Unavailable."""
    java()
    jars = state / "kafka-jars"
    wanted = _wanted()
    with home.locked(state / "kafka-jars.lock", wait=True):
        if jars.is_dir() and not _wrong(jars, wanted):
            return
        maven = shutil.which("mvn")
        if maven is None:
            raise errors.Unavailable(
                "Kafka's jars are fetched by Maven, and there is no `mvn`: install it (on Debian and Ubuntu: apt install maven), "
                "or set KAFKA_BROKERS to a broker that runs already",
                code="maven_missing",
            )
        say(f"fetching Apache Kafka {kafka_version()} by Maven (43 MB, once)")
        with tempfile.TemporaryDirectory(dir=state, prefix=".kafka-jars-") as aside:
            _copied_by(maven, Path(aside) / "jars")
            wrong = _wrong(Path(aside) / "jars", wanted)
            if wrong:
                raise errors.Unavailable(
                    f"these jars are not what infra/kafka/jars.sha256 lists: {', '.join(wrong)}: remove them from Maven's local repository "
                    "(~/.m2/repository) and try again; after a change of the pom renew the list",
                    code="jars_differ",
                )
            shutil.rmtree(jars, ignore_errors=True)
            (Path(aside) / "jars").rename(jars)


def _copied_by(maven: str, target: Path) -> None:
    done = subprocess.run(
        [maven, "-B", "-q", "-U", "-C", "-f", str(INFRA / "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime",
         f"-DoutputDirectory={target}"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line and "Help 1" not in line][:3]
        raise errors.Unavailable(
            "Maven could not fetch Kafka's jars; is the network there? It said:\n  " + ("\n  ".join(said) or tail(done)),
            code="jars_missing",
        )


def _wanted() -> dict[str, str]:
    lines = (INFRA / "jars.sha256").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines if line)}


def _wrong(jars: Path, wanted: Mapping[str, str]) -> list[str]:
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in jars.glob("*.jar")}
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def class_path(state: Path) -> str:
    """The jars of `state` as Java takes them."""
    # The class archive holds only for this very list in this very order: no wildcard.
    jars = (state / "kafka-jars").resolve()
    return os.pathsep.join(str(jars / name) for name in sorted(_wanted()))


@functools.cache
def java_version(path: str) -> str:
    """What `java -version` says."""
    done = subprocess.run([path, "-version"], capture_output=True, text=True, check=False)
    return done.stderr or done.stdout


def tail(done: "subprocess.CompletedProcess[str]", lines: int = 6) -> str:
    """The last lines of what a program said, for a message."""
    return "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-lines:]) or f"nothing (exit code {done.returncode})"

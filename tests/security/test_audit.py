"""The audit finds what an advisory is about, and never says that it looked when it did not."""

import json
from pathlib import Path

import pytest

from ops import home
from ops.audit import advisories, sbom
from ops.audit.__main__ import look_up
from ops.images import sets
from ops.images.sets import Pin
from shared import errors

WEAK_COPYLEFT = {"certifi"}  # of what is in images: MPL 2.0, by file, and used as it comes (SECURITY.md)


def pin(version: str) -> Pin:
    return Pin("example", version, frozenset(), "")


def database(folder: Path, text: str) -> Path:
    """A database with one advisory about the package `example`."""
    file = folder / "vulns" / "example" / "PYSEC-2026-1.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"id: PYSEC-2026-1\naffected:\n- package: {{name: Example, ecosystem: PyPI}}\n{text}", encoding="utf-8")
    return folder


RANGES = """\
  ranges:
  - type: GIT
    events: [{introduced: "0"}]
  - type: ECOSYSTEM
    events: [{introduced: "0"}, {fixed: 1.2.3}, {introduced: "2.0"}, {last_affected: "2.1"}]
"""


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("0.1.dev1", True),
        ("1.2.2", True),
        ("1.2.3rc1", True),
        ("1.2.3", False),
        ("1.10", False),
        ("2.0", True),
        ("2.1", True),
        ("2.1.1", False),
    ],
)
def test_a_version_within_a_range_is_affected(tmp_path: Path, version: str, affected: bool) -> None:
    found = advisories.by_database(database(tmp_path, RANGES), [pin(version)])

    assert found == ([advisories.Vulnerability("example", version, "PYSEC-2026-1", ("1.2.3",))] if affected else [])


def test_a_version_that_is_listed_is_affected_and_another_is_not(tmp_path: Path) -> None:
    folder = database(tmp_path, '  versions: ["1.0", "not a version", "1.1"]\n')

    assert [["1.1"], []] == [[of.version for of in advisories.by_database(folder, [pin(version)])] for version in ("1.1", "1.2")]


def test_an_advisory_that_was_withdrawn_is_none(tmp_path: Path) -> None:
    assert [] == advisories.by_database(database(tmp_path, RANGES + 'withdrawn: "2026-01-01T00:00:00Z"\n'), [pin("1.0")])


def test_a_folder_that_is_no_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="is no checkout of the PyPA advisory database"):
        advisories.by_database(tmp_path, [pin("1.0")])


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'no route to host' >&2; exit 1", "pip-audit could not ask PyPI: no route to host"),
        ('echo \'{"dependencies": [{"name": "a", "skip_reason": "not found"}]}\'', "pip-audit skipped a"),
        ("echo '[]'", "pip-audit could not ask PyPI: it said nothing"),
    ],
)
def test_a_pip_audit_that_could_not_ask_is_no_audit(tmp_path: Path, script: str, told: str) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    tool.chmod(0o755)

    with pytest.raises(errors.Unavailable) as caught:
        advisories.by_pip_audit(tmp_path, home.CHECKOUT / "requirements.lock")

    assert ("not_audited", told) == (caught.value.code, caught.value.detail)


def test_every_locked_package_is_pinned_by_its_hashes() -> None:
    text = (home.CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
    named = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]

    assert len(named) == len(sets.pins(text))
    assert all(of.hashes for of in sets.pins(text))


def test_what_is_in_an_image_is_free_of_copyleft_but_for_what_is_named() -> None:
    shipped = {of.name for each in sets.every() for of in each.whole()}
    known = {name: licence for name, licence in sbom.licences().items() if name in shipped}

    assert shipped == known.keys()
    assert {
        name for name, licence in known.items() if any(word in licence for word in ("GPL", "MPL", "Mozilla", "EPL", "unknown"))
    } == WEAK_COPYLEFT


def test_the_sbom_names_every_locked_package_with_its_hashes_and_is_valid(tmp_path: Path) -> None:
    tools = home.CHECKOUT / ".venv-audit" / "bin"
    if not (tools / "cyclonedx-py").exists():
        pytest.skip("!!! .venv-audit is not made (`make audit` makes it): the SBOM was not tested !!!")
    out = tmp_path / "sbom.json"
    pins = {of.name: of for of in sets.pins((home.CHECKOUT / "requirements.lock").read_text(encoding="utf-8"))}

    assert sbom.make(tools, home.CHECKOUT / "requirements.lock", out, sbom.licences()) == len(pins)
    document = json.loads(out.read_text(encoding="utf-8"))
    assert ("CycloneDX", sbom.SPEC) == (document["bomFormat"], document["specVersion"])
    found = {of["name"]: {told["content"] for told in of["externalReferences"][0]["hashes"]} for of in document["components"]}
    assert {name: {told.removeprefix("sha256:") for told in of.hashes} for name, of in pins.items()} == found
    assert not any("://" in told["url"] for of in document["components"] for told in of["externalReferences"])


@pytest.mark.parametrize(
    ("modified", "version", "code", "told"),
    [
        (None, "2.2", 3, "NOT AUDITED: no vulnerability was looked for"),
        ("2020-01-01", "2.2", 3, "NOT AUDITED: the newest word in"),
        ("2999-01-01", "2.2", 0, ""),
        ("2999-01-01", "1.0", 1, "example 1.0: PYSEC-2026-1, fixed in 1.2.3 (in an image)"),
        ("2020-01-01", "1.0", 1, "example 1.0: PYSEC-2026-1, fixed in 1.2.3 (in an image)"),
    ],
)
def test_the_audit_says_loudly_what_it_found_and_when_it_did_not_happen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], modified: str | None, version: str, code: int, told: str
) -> None:
    """Neither without advisories nor with old ones is it one."""
    if modified:
        database(tmp_path, f"{RANGES}modified: {modified}T00:00:00Z\n")

    assert look_up([pin(version)], {"example"}, tmp_path) == code

    said = capsys.readouterr()
    assert told in said.err
    assert ("looked up by the advisories" in said.out) == (modified is not None)


def test_without_advisories_and_without_an_answer_of_pypi_it_is_no_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pip-audit").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (tmp_path / "pip-audit").chmod(0o755)

    assert look_up([pin("1.0")], set(), None, tmp_path) == 3
    assert "NOT AUDITED" in capsys.readouterr().err

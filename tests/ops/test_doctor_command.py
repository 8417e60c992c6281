"""`orderflow doctor` as a command: its exit codes, its JSON, what it says of what it cannot see; and its page."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from ops import home
from ops.doctor import checks, command, facts, files, findings
from ops.doctor.codes import CODES, PARTS
from ops.doctor.facts import Facts
from ops.doctor.findings import Exit
from tests.ops import commands, patient

PAGE = (home.CHECKOUT / "docs" / "doctor.md").read_text(encoding="utf-8")
SOURCES = (home.CHECKOUT / "infra" / "knative" / "sources.yaml").read_text(encoding="utf-8")
APP = typer.Typer()
APP.command()(command.doctor)


def doctor(*arguments: str, env: Mapping[str, str]) -> commands.Ran:
    return commands.run(APP, *arguments, env=env)


@pytest.fixture
def nowhere(unused_address: str) -> dict[str, str]:
    """An environment whose servers are not there."""
    return {"KAFKA_BROKERS": unused_address, "ORDER_POSTGRES_DSN": f"postgresql://u:planted-password@{unused_address}/orders"}


def test_the_page_has_every_code_with_its_level_its_reason_and_what_to_do() -> None:
    for part, codes in PARTS.items():
        section = PAGE.split(f"### {part}\n")[1].split("\n### ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert [f"| `{name}` | {of.level} | {of.what} | {of.why} | {of.do} |" for name, of in codes.items()] == rows


def test_the_page_says_the_exit_codes() -> None:
    assert {"0", "1", "2", "3"} == set(re.findall(r"^\| (\d) \|", PAGE, re.MULTILINE))
    assert {0, 1, 3} == set(Exit)


def test_servers_that_are_away_are_not_examined_and_not_in_order(nowhere: dict[str, str]) -> None:
    ran = doctor("--json", env=nowhere)
    told = json.loads(ran.out)

    assert 3 == ran.code
    assert ("green", []) == (told["level"], told["findings"])
    left = {code for one in told["not_examined"] for code in one["codes"]}
    assert {"topic_missing", "records_lost", "auto_create", "key_missing", "fsync_off", "clock_skew", "connections_few"} <= left
    assert set() == left & set(told["in_order"])
    assert {"source_latest", "timeouts_order", "gateway_async"} <= set(told["in_order"])
    assert all(nowhere["KAFKA_BROKERS"] in one["reason"] for one in told["not_examined"])
    assert "planted-password" not in ran.out + ran.err


def test_for_people_problems_come_first_and_then_the_count(nowhere: dict[str, str], tmp_path: Path) -> None:
    edited = tmp_path / "sources.yaml"
    edited.write_text(
        SOURCES.replace("ordering: ordered", "ordering: unordered").replace("initialOffset: earliest", "initialOffset: latest", 1)
    )
    ran = doctor("--manifests", str(edited), env=nowhere)
    lines = ran.out.splitlines()

    assert 1 == ran.code
    assert "RED    source_latest: assembly-on-payment: spec.initialOffset is latest (sources.yaml)" == lines[0]
    assert f"       {CODES['source_latest'].why}" == lines[1]
    assert "       do: `initialOffset: earliest`" == lines[2]
    assert lines[3].startswith("AMBER  source_unordered: ")
    assert any(line.startswith("?      not examined (") for line in lines)
    assert re.fullmatch(r"\d+ checks are in order, 1 red, 4 amber, \d+ not examined", lines[-1])


def test_strict_fails_for_what_surprises() -> None:
    amber = checks.run(patient.healthy().with_(outbox=facts.Outbox(0, 100.0)))
    partly = checks.run(patient.healthy().with_(outbox=facts.Outbox(0, 100.0), left={"clocks": "away"}))

    assert [Exit.GREEN, Exit.RED] == [amber.exit(CODES, strict=strict) for strict in (False, True)]
    assert [Exit.NOT_EXAMINED, Exit.RED] == [partly.exit(CODES, strict=strict) for strict in (False, True)]


def test_every_setting_that_is_refused_is_a_finding(nowhere: dict[str, str]) -> None:
    ran = doctor("--json", env=nowhere | {"LOCK_TIMEOUT": "soon", "DELIVERY_TOKEN": "planted-and-short"})
    told = json.loads(ran.out)

    assert 1 == ran.code
    assert {"setting_refused"} == {finding["code"] for finding in told["findings"]}
    assert {"LOCK_TIMEOUT", "DELIVERY_TOKEN"} <= {finding["what"].partition(":")[0] for finding in told["findings"]}
    assert "topic_missing" in {code for one in told["not_examined"] for code in one["codes"]}
    assert "planted-and-short" not in ran.out + ran.err


def seen(path: Path) -> findings.Report:
    return checks.run(files.with_manifests(Facts(declared=patient.CATALOGUE, refused=()), path))


def test_manifests_that_cannot_be_read_are_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("kind: [KafkaSource")
    (tmp_path / "others.yaml").write_text("kind: ConfigMap\n")
    missing, broken, others = (seen(tmp_path / name) for name in ("none.yaml", "broken.yaml", "others.yaml"))

    assert any("none.yaml" in left.reason and {"source_latest", "source_invalid"} <= set(left.codes) for left in missing.left)
    assert (["source_invalid"], True) == ([finding.code for finding in broken.findings], "source_latest" in broken.left[0].codes)
    assert {"source_invalid", "source_missing"} == {finding.code for finding in others.findings}


@pytest.mark.parametrize("overlay", ["dev", "prod", "lossless"])
def test_our_overlays_are_in_order(overlay: str) -> None:
    report = seen(home.CHECKOUT / "infra" / "knative" / "overlays" / overlay)
    if any("there is no kubectl" in left.reason for left in report.left):
        pytest.skip("KUBECTL IS MISSING: no overlay was rendered")

    assert ((), ()) == (report.findings, report.left)
    assert {"source_without_letters", "token_unsendable", "timeouts_order", "drain_order"} <= set(report.in_order)


def test_a_wrong_command_line_is_2(nowhere: dict[str, str]) -> None:
    assert 2 == doctor("--manifest", "x", env=nowhere).code


def test_what_is_known_in_part_is_looked_at_and_still_not_in_order() -> None:
    of = patient.healthy().with_(left={"server_settings": "elsewhere:5432/orders: away"})
    report = checks.run(of)
    off = checks.run(patient.server_of(of, "fsync", "off"))

    assert {"fsync_off", "commit_not_waited", "database_read_only", "vacuum_off", "connections_few"} == set(report.left[0].codes)
    assert Exit.NOT_EXAMINED == report.exit(CODES, strict=False)
    assert ["fsync_off"] == [finding.code for finding in off.findings]
    assert Exit.RED == off.exit(CODES, strict=False)


def test_a_check_whose_facts_do_not_apply_is_neither_in_order_nor_left() -> None:
    report = checks.run(Facts(refused=()))

    assert (("setting_refused",), (), ()) == (report.in_order, report.findings, report.left)


def test_findings_are_sorted_by_how_bad_they_are() -> None:
    of = patient.healthy().with_(outbox=facts.Outbox(1, 100.0), letters=[facts.Letters(patient.LETTERS, 1, 1e9)])

    assert ["outbox_set_aside", "outbox_late", "letters_expiring"] == [finding.code for finding in checks.run(of).findings]
    assert findings.Level.RED == checks.run(of).level(CODES)

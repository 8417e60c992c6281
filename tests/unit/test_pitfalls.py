"""docs/pitfalls.md names the tests that hold each pitfall off, and leaves none out."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}


def numbers(name: str) -> set[str]:
    return {f"{letter}{int(number)}" for letter, number in re.findall(r"_([LDO])(\d\d)(?=_)", name)}


def test_every_test_on_the_page_is_there() -> None:
    assert set(re.findall(r"`(test_\w+)`", PAGE)) - TESTS == set()


def test_every_test_that_carries_a_number_is_on_the_page_in_a_row_of_that_number() -> None:
    rows = {row[0]: row[1] for row in re.findall(r"^\| ([LDO]\d+) \|(.*)$", PAGE, re.MULTILINE)}
    numbered = {name: numbers(name) for name in TESTS if numbers(name)}
    assert numbered
    assert {name for name, of in numbered.items() if not any(name in rows.get(number, "") for number in of)} == set()

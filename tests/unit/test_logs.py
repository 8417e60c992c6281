"""One line per fact, to standard error: JSON for machines, text for people."""

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest

from ops import child, home

SCRIPT = """
import logging, sys
from shared import logs
logs.set_up(sys.argv[1], sys.argv[2])
log, other = logging.getLogger("shared.example"), logging.getLogger("library")
log.debug("small")
log.info("an order of %s", "user-7", extra={"order_id": "o-1", "count": 3})
other.info("chatter")
other.warning("beware")
try:
    raise ValueError("broken")
except ValueError:
    log.exception("it failed")
print("the answer")
"""


def lines(level: str, style: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, level, style], capture_output=True, text=True, check=True, cwd=home.CHECKOUT, env=child.environment()
    )
    assert done.stdout == "the answer\n"
    return done.stderr.splitlines()


@pytest.mark.parametrize("style", ["json", "auto"])
def test_off_a_terminal_each_fact_is_one_json_object(style: str) -> None:
    found: list[Mapping[str, object]] = [json.loads(line) for line in lines("info", style)]

    assert [(of["level"], of["message"]) for of in found] == [
        ("info", "an order of user-7"),
        ("warning", "beware"),
        ("error", "it failed"),
    ]
    assert (found[0]["order_id"], found[0]["count"], found[0]["logger"]) == ("o-1", 3, "shared.example")
    assert str(found[0]["time"]).endswith("+00:00")
    assert "ValueError: broken" in str(found[2]["traceback"])


def test_as_text_a_fact_is_one_line_with_what_belongs_to_it() -> None:
    found = lines("info", "text")

    assert found[0].split(maxsplit=1)[1] == "info    an order of user-7 order_id=o-1 count=3"
    assert found[-1] == "ValueError: broken"


def test_the_level_is_for_our_own_loggers_and_libraries_speak_from_warning_on() -> None:
    told = [json.loads(line)["message"] for line in lines("debug", "json")]

    assert "small" in told
    assert "chatter" not in told
    assert [json.loads(line)["message"] for line in lines("error", "json")] == ["beware", "it failed"]

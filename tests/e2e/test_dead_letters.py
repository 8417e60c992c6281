"""The runbook's commands run as they are written, and the demonstration does what it says."""

import json
import os
import re
import subprocess
import uuid
from typing import Any

import pytest

from ops import child, home
from tests import stack
from tests.e2e.system import PAID, System, groups

PAGE = (home.CHECKOUT / "docs" / "dead-letters.md").read_text(encoding="utf-8")


def test_the_runbook_leads_from_a_wrong_event_to_an_empty_group(system: System) -> None:
    order = f"order-{uuid.uuid4().hex}"
    event = {
        "event_id": uuid.uuid4().hex, "event_type": PAID, "occurred_at": "2026-01-31T10:15:00Z",
        "order_id": order, "user_id": "user-1", "amount": -1, "payment_method": "card",
    }  # fmt: skip
    told = system.up.told
    env = os.environ | {
        "KAFKA_BROKERS": told["kafka"]["brokers"], "ORDER_POSTGRES_DSN": told["postgres"]["dsn"], "ORDERFLOW_HOME": str(system.up.home),
        "PATH": f"{home.CHECKOUT / '.venv' / 'bin'}:{os.environ['PATH']}", "ORDER": order,
    }  # fmt: skip
    system.produce(PAID, json.dumps(event).encode(), key=order.encode())

    def letters(state: str) -> list[dict[str, Any]]:
        command = stack.orderflow("dlq", "list", "--order", order, "--state", state, "--json")
        answer = subprocess.run(command, env=env, cwd=home.CHECKOUT, capture_output=True, text=True, check=True)
        return list(json.loads(answer.stdout)["letters"])

    stack.eventually(lambda: len(letters("open")) == len(groups(PAID)), "the letters of its consumers")
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    for block in blocks:
        for line in block.splitlines():
            told_now: dict[str, str] = {}
            if "$LETTER" in line or "$CAUSE" in line:
                # `restore` is about the letter that the line before has discarded.
                found = letters("discarded" if "restore" in line else "open")
                own = next(each for each in found if each["consumer"] == "assembly-service")
                told_now = {"LETTER": own["letter_id"], "CAUSE": own["fingerprint"]}
            if "replay --order" in line and "--dry-run" not in line:
                _mend_the_others(env, letters("open"))
            command = ["/bin/bash", "-c", line]
            answer = subprocess.run(command, env=env | told_now, cwd=home.CHECKOUT, capture_output=True, text=True, check=False)
            assert answer.returncode == 0, f"{line}\n{answer.stdout}\n{answer.stderr}"
    assert letters("open") == []
    assert groups(PAID) == sorted({each["consumer"] for each in letters("done")})
    system.wait_idle()


def _mend_the_others(env: dict[str, str], letters: list[dict[str, Any]]) -> None:
    """The runbook edits one letter; the event's other consumers have one each of the same kind."""
    for each in letters:
        if each["consumer"] != "assembly-service":
            command = stack.orderflow("dlq", "edit", each["letter_id"], "--set", "amount=990", "--yes")
            subprocess.run(command, env=env, cwd=home.CHECKOUT, capture_output=True, check=True)


@pytest.mark.timeout(240)
def test_the_demonstration_breaks_understands_mends_and_counts(system: System, tmp_path_factory: pytest.TempPathFactory) -> None:
    del system
    state = tmp_path_factory.mktemp("demo")
    (state / "kafka-jars").symlink_to(home.folder() / "kafka-jars")  # the system fixture has fetched them
    env = child.environment(ORDERFLOW_HOME=str(state))
    command = stack.orderflow("demo-dead-letters")
    ended = subprocess.run(command, env=env, cwd=home.CHECKOUT, capture_output=True, text=True, timeout=220, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
    assert "announced exactly once" in ended.stdout

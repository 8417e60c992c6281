"""Every letter in this folder (`orderflow dlq pull ID --redact`), run against the function that failed.

A letter that is to be handled from now on fails here until its cause is mended. One with `"expect": "refused"` is refused for ever.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.dlq import fixture
from tests import stack
from tests.letters import running

LETTERS = sorted(Path(__file__).parent.glob("*.json"))


@pytest.fixture(scope="module")
def function_of(postgres: stack.PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], stack.Process]]:
    """function_of("notify") -> that function, started once, with a database of this module's own."""
    database = postgres.new_database()
    made: dict[str, stack.Process] = {}

    def start(name: str) -> stack.Process:
        if name not in made:
            made[name] = stack.start_function(name, database.environment(), tmp_path_factory.mktemp(name) / "log.txt")
        return made[name]

    yield start
    for process in made.values():
        process.kill()
    postgres.drop(database)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in LETTERS])
def test_a_letter_is_handled_as_it_is_expected_to_be(path: Path, function_of: Callable[[str], stack.Process]) -> None:
    letter = fixture.read(path)

    result = running.outcome(letter, function_of(letter.function).url)

    assert running.verdict(letter, result) == ""

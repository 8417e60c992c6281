"""One letter's record, sent to the function that failed, as the source sends it."""

import asyncio
import dataclasses

from ops.dlq import sender, targets
from ops.dlq.fixture import Expect, Fixture
from ops.dlq.ledger import Result
from shared import config


def outcome(fixture: Fixture, url: str) -> Result:
    """What the function at `url` makes of the record, at the first try."""
    source = targets.source_of(targets.sources(config.Settings(), url=f"{url}/"), fixture.consumer)

    async def send() -> Result:
        to = sender.ToFunction(dataclasses.replace(source, retries=0), {}, sender.Stop(), lambda _reason: None)
        try:
            found = await to.send(fixture.record)
        finally:
            await to.close()
        assert found is not None
        return found

    return asyncio.run(send())


def verdict(fixture: Fixture, result: Result) -> str:
    """Empty when the function did what is expected; else what it did."""
    if fixture.expect is Expect.done:
        return "" if result.status in {"done", "duplicate"} else f"{result.code}: {result.detail}"
    return "" if (result.status, result.code) == ("failed_again", fixture.code) else f"{result.status} {result.code}, not {fixture.code}"

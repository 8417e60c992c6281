"""`python -m bench.removing`: walks through inbox and outbox as the processes that own them do, but without a rest between turns.

In production a walk takes days. Here it never pauses for longer than between two steps, which is as much as removal can ever ask of a
database. At SIGTERM it ends, and says how many rows went.
"""

import json
import signal
import sys
import threading
import time
from contextlib import closing

from connectors.outbox_relay import removal as outbox_removal
from shared import config, database
from shared.removal import Removal, Walk

AT_ONCE_S, FOR_EVER_S = 1.0, 86_400.0


def main() -> int:
    """0: in the end all went as it should."""
    settings, ended = config.settings(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    removals = {"order": Removal.of_inbox("order_inbox_events", settings, "bench"), "relay": outbox_removal.of_outbox(settings)}
    found: dict[str, dict[str, float]] = {}

    def walk(role: str, removal: Removal) -> None:
        began = time.monotonic()
        with closing(database.connect(role, settings, "bench removal")) as base:
            removed = Walk(base, removal.old, FOR_EVER_S, AT_ONCE_S).turn(lambda pause_s: not ended.wait(pause_s))
        found[removal.old.table] = {"rows": removed, "seconds": round(time.monotonic() - began, 1)}

    threads = [threading.Thread(target=walk, args=each) for each in removals.items()]
    for thread in threads:
        thread.start()
    ended.wait()
    for thread in threads:
        thread.join()
    print(json.dumps(found))  # noqa: T201  its result
    return 0 if len(found) == len(removals) else 1


if __name__ == "__main__":
    sys.exit(main())

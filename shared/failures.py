"""What a handler raised, as an error of ours: one that is ours already as it is, any other a bug with its class and line."""

import logging
import re
import traceback
from collections.abc import Collection
from pathlib import Path

from shared import errors, masking

log = logging.getLogger(__name__)

# Code that is no function's own: installed packages, the standard library, what functions share.
_FOREIGN = re.compile(
    rf"<|.*/(site|dist)-packages/|({re.escape(str(Path(traceback.__file__).parent))}|{re.escape(str(Path(__file__).parent))})/"
)


def of(exc: Exception, hidden: Collection[str] = ()) -> errors.OrderflowError:
    """`exc` as ours. A bug says its class and the line of the function's own code, and its stack trace stands in the log.

    None of it shows one of `hidden`, the personal texts of the events that the handler had.
    """
    if isinstance(exc, errors.OrderflowError):
        exc.detail = masking.text(exc.detail, hidden)
        if isinstance(exc, errors.Bug) and not exc.place:
            exc.place = f"{type(exc).__name__} {_line(exc)}"
        return exc
    log.error("the handler failed", exc_info=exc, extra={"hidden": hidden})
    line = _line(exc)
    return errors.Bug(f"{type(exc).__name__} in {line}: {masking.text(str(exc), hidden)}", place=f"{type(exc).__name__} {line}")


def _line(exc: Exception) -> str:
    """The last line of the function's own code that `exc` went through, else the one that raised it: `main.py:33`."""
    passed = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in passed if not _FOREIGN.match(frame.filename)]
    place = (own or passed)[-1]
    return f"{Path(place.filename).name}:{place.lineno}"

"""The tree of failures. Each branch states its HTTP status; its docstring is the default message.

OrderflowError 500
├── ConfigError            a setting is wrong: the process does not start
├── Refused 422            the event's fault: it gets its letter at once
│   ├── NotACloudEvent 400
│   ├── UnsupportedMediaType 415
│   └── TooLarge 413
├── Unauthorized 401       the request's fault, not the event's
├── MethodNotAllowed 405   likewise
├── Busy 409               nobody's: the same event is being handled elsewhere
├── Overloaded 429         nobody's: too much at once, here or at a remote limit
├── Unavailable 503        a dependency is away
│   └── Conflict 503       two transactions met: the same one, repeated, goes through
└── Bug 500                the handler failed in a way nobody foresaw
"""

from collections.abc import Sequence
from typing import ClassVar


class OrderflowError(Exception):
    """Something failed."""

    status: ClassVar[int] = 500
    outcome: ClassVar[str] = "failed"
    code = "error"

    def __init__(self, detail: str = "", *, code: str = "", place: str = "", retry_after_s: float | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.place = place  # of a bug its class and line, of a refusal the fields: what failures of one cause have in common
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s
        super().__init__(self.detail)


class ConfigError(OrderflowError):
    """A setting is wrong."""

    code = "config"

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("these settings are wrong:\n" + "\n".join(f"  {fault}" for fault in faults))


class Refused(OrderflowError):
    """The event is not valid here."""

    status = 422
    outcome = "refused"
    code = "invalid_event"


class NotACloudEvent(Refused):
    """The request is not a CloudEvent."""

    status = 400
    code = "not_a_cloudevent"


class UnsupportedMediaType(Refused):
    """The media type is not one that is read here."""

    status = 415
    code = "unsupported_media_type"


class TooLarge(Refused):
    """The body is larger than is taken here."""

    status = 413
    code = "too_large"


class Unauthorized(OrderflowError):
    """The delivery token is missing or wrong."""

    status = 401
    outcome = "refused"
    code = "unauthorized"


class MethodNotAllowed(OrderflowError):
    """Only POST is taken here."""

    status = 405
    outcome = "refused"
    code = "method_not_allowed"


class Retryable(OrderflowError):
    """The same request may succeed later. Never raised as such."""

    def __init__(self, detail: str = "", *, code: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(detail, code=code, retry_after_s=retry_after_s)


class Busy(Retryable):
    """The same event is being handled elsewhere."""

    status = 409
    outcome = "busy"
    code = "busy"


class Overloaded(Retryable):
    """More arrives than can be handled now."""

    status = 429
    outcome = "overloaded"
    code = "overloaded"


class Unavailable(Retryable):
    """A dependency is away."""

    status = 503
    outcome = "unavailable"
    code = "unavailable"


class Conflict(Unavailable):
    """Two transactions were in each other's way."""

    code = "conflict"


class Bug(OrderflowError):
    """The handler failed."""

    status = 500
    code = "bug"

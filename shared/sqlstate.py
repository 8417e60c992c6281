"""What PostgreSQL's error codes mean here: whose fault a failed statement was (PostgreSQL documentation, appendix A)."""

import logging

from shared import errors

log = logging.getLogger(__name__)

STALE = frozenset({"0A000", "26000"})  # a migration changed what a prepared statement gives back: it must be prepared anew
_SETTINGS_AT_FAULT = {
    "42P01": "schema",
    "42703": "schema",
    "3F000": "schema",
    "3D000": "schema",
    "42501": "permission",
    "28000": "permission",
}


# A server that answers so is there, and waiting changes nothing.
_AT_THE_DOOR = {"28P01": "credentials", "28000": "credentials", "3D000": "schema", "42501": "permission"}


def not_let_in(state: str, message: str) -> errors.Unavailable:
    """The error of a connection that the server did not give us."""
    return errors.Unavailable(message, code=_AT_THE_DOOR.get(state, "database_away"))


def failure(state: str, message: str, *, role: str, constraint: str = "") -> errors.OrderflowError:
    """The error that a statement of `role` ended with, in our terms; `constraint` is the one that it broke."""
    if state.startswith("22"):
        return errors.Refused(message, code="value_error")
    if state.startswith("23"):
        return errors.Refused(message, code="constraint", place=constraint)
    if state == "55P03":
        return errors.Busy("another transaction holds what this event needs", code="locked")
    if state in {"40001", "40P01"}:
        return errors.Conflict(message)
    if state == "57014":
        return errors.Unavailable(message, code="statement_timeout")
    if state in _SETTINGS_AT_FAULT:
        log.error("the database is not as this process needs it", extra={"role": role, "sqlstate": state, "reason": message})
        return errors.Unavailable(f"the database is not set up for {role}: {message}", code=_SETTINGS_AT_FAULT[state])
    if state[:2] in {"42", "P0"}:
        return errors.Bug(message, code="statement")
    return errors.Unavailable(message, code="database_away")

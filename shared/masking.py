"""What no log line and no answer shows: this process's secrets, and what is personal in an event.

It is the last border. The first is that nobody hands on a secret or a person: but the text of a library's exception, or of a handler's,
may hold either, and every such text passes here before it is logged, answered or, as part of an answer, written into a letter.
"""

import re
from collections.abc import Collection, Iterable
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
SECRET_CHARACTERS_MIN = 8  # a shorter one is a word that may stand anywhere, and no secret

# Names of fields that hold what is personal, anywhere in an event; a name that ends so counts too (home_street).
PERSONAL = (
    "user_id", "customer_id", "user_name", "first_name", "last_name", "full_name", "email", "e_mail", "phone", "telephone", "mobile",
    "street", "city", "zip", "postcode", "postal_code", "birthday", "birth_date", "date_of_birth", "ip_address", "chat_id", "telegram_id",
    "card_number", "pan", "iban", "passport", "password", "secret",
)  # fmt: skip
_ENDS = tuple(f"_{name}" for name in PERSONAL)
# A field as JSON, Python, SQL and pydantic show one, also within a text: "user_id": "…", user_id='…', (user_id)=(…), \"user_id\": \"…\".
_FIELD = re.compile(r"""(?<![A-Za-z0-9_-])(?P<name>[A-Za-z][A-Za-z0-9_-]{0,63})(?:\\*["']|\))?\s{0,8}(?P<equals>[:=])\s{0,8}""")
_QUOTED = r"""(?P<quote>\\*["'])(?:(?!(?P=quote))(?:\\.|[^\\]))*(?:(?P=quote))?|\([^)]*\)?"""
# What stands without quotes after a colon is prose, such as "user_id: must not be empty", unless it is a number.
_VALUE = {"=": re.compile(rf"{_QUOTED}|[^\s,;&)\]}}]+", re.DOTALL), ":": re.compile(rf"{_QUOTED}|[+-]?\d[\d.]*", re.DOTALL)}
_INPUT = re.compile(r"input_value=.*?(?=, input_type=|\]|$)", re.DOTALL)  # pydantic's: whatever somebody sent

_secrets: set[str] = set()
_any_secret: re.Pattern[str] | None = None


def keep_secret(values: Iterable[str | None]) -> None:
    """From now on `text` shows none of `values`; of a DSN, not its password, in either spelling."""
    global _any_secret  # noqa: PLW0603  what a process knows for as long as it lives
    for value in filter(None, values):
        password = _password(value) if "://" in value else value
        _secrets.update({password, quote(password, safe=""), unquote(password)} if password else set())
    known = sorted((value for value in _secrets if len(value) >= SECRET_CHARACTERS_MIN), key=len, reverse=True)
    _any_secret = re.compile("|".join(map(re.escape, known))) if known else None


def text(shown: str, hidden: Collection[str] = ()) -> str:
    """`shown` without secrets, without the values of personal fields and of `hidden`, wherever these stand as a word."""
    if _any_secret is not None:
        shown = _any_secret.sub(MASK, shown)
    if hidden:
        some = "|".join(map(re.escape, sorted(filter(None, set(hidden)), key=len, reverse=True)))
        shown = re.sub(rf"(?<!\w)(?:{some})(?!\w)", MASK, shown) if some else shown
    if "input_value=" in shown:
        shown = _INPUT.sub(f"input_value={MASK}", shown)
    return _without_fields(shown) if ":" in shown or "=" in shown else shown


def is_personal(name: str) -> bool:
    """Whether a field of this name holds what is personal; `userId`, `user-id` and `user_id` are one name."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return snake in PERSONAL or snake.endswith(_ENDS)


def _without_fields(shown: str) -> str:
    parts, at = [], 0
    for field in _FIELD.finditer(shown):
        value = _VALUE[field["equals"]].match(shown, field.end()) if field.start() >= at and is_personal(field["name"]) else None
        if value is not None:
            parts += [shown[at : field.end()], MASK]
            at = value.end()
    return "".join([*parts, shown[at:]])


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return url

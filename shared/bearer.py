"""The token that lets a delivery in. A receiver takes either of two, a sender sends the first: so one can follow the other under load."""

import hmac
import re
from collections.abc import Sequence

from pydantic import SecretStr

TOKENS_MAX = 2
CHARACTERS_MIN = 32  # 128 bits where they are written in hexadecimal

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750


def read(given: object) -> object:
    """The tokens of a setting, a line or a word each, as SecretStr. Raises ValueError, which shows none of them."""
    if not isinstance(given, str):
        return given
    tokens = given.split()
    if not tokens:
        raise ValueError("is empty, and without a token everybody may deliver; unset it where that is meant")
    if len(tokens) > TOKENS_MAX:
        raise ValueError(f"must be one token, or two while one takes the other's place, and there are {len(tokens)}")
    if not all(_TOKEN.fullmatch(token) for token in tokens):
        raise ValueError("a token must consist of letters, digits and - . _ ~ + /")
    if any(len(token) < CHARACTERS_MIN for token in tokens):
        raise ValueError(f"a token must have at least {CHARACTERS_MIN} characters: `openssl rand -hex 32` makes one")
    return tuple(map(SecretStr, tokens))


def headers(tokens: Sequence[SecretStr]) -> dict[str, str]:
    """What a sender says: the first token, or nothing where there is none."""
    return {"authorization": f"Bearer {tokens[0].get_secret_value()}"} if tokens else {}


def lets_in(authorization: str, tokens: Sequence[SecretStr]) -> bool:
    """Whether the header `authorization` holds one of `tokens`. How long that takes tells neither how much of one it holds nor which."""
    scheme, _, given = authorization.partition(" ")
    told = given.encode("latin-1", "replace")
    found = [hmac.compare_digest(told, token.get_secret_value().encode()) for token in tokens]
    return scheme.lower() == "bearer" and any(found)

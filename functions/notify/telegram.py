"""Telegram's Bot API: one call, and what its answers mean for the event that caused it.

https://core.telegram.org/bots/api#sendmessage; answers: https://core.telegram.org/bots/api#making-requests
"""

import logging
from typing import Self

import anyio
import httpx

from shared import errors, masking
from shared.config import Settings

log = logging.getLogger(__name__)

TEXT_CHARACTERS_MAX = 4096
RETRY_AFTER_DEFAULT_S = 5.0
# Two sources have more requests here at once than the 20 that httpx would keep, and each new connection is a TLS handshake.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100)


class Telegram:
    """A chat to send messages to. The token is part of the URL, so no error here ever names the URL."""

    def __init__(self, client: httpx.AsyncClient, token: str, chat_id: str, timeout_s: float) -> None:
        self._client, self._token, self._chat_id, self._timeout_s = client, token, chat_id, timeout_s

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The chat that the settings name. They were checked: with TELEGRAM_ENABLED both token and chat are there."""
        token = settings.telegram_bot_token.get_secret_value() if settings.telegram_bot_token else ""
        client = httpx.AsyncClient(base_url=settings.telegram_url, timeout=settings.telegram_timeout, limits=_LIMITS)
        return cls(client, token, settings.telegram_chat_id or "", settings.telegram_timeout)

    async def send(self, text: str) -> None:
        """Send `text`, cut to what a message holds. Raises Overloaded, Unavailable, Refused (the text is at fault)."""
        message = {"chat_id": self._chat_id, "text": text[:TEXT_CHARACTERS_MAX]}
        try:
            with anyio.fail_after(self._timeout_s):  # asyncio.timeout would now and then leave the connection in use for ever
                answer = await self._client.post(f"/bot{self._token}/sendMessage", json=message)
        except (httpx.HTTPError, TimeoutError) as exc:
            raise errors.Unavailable(f"Telegram did not answer: {type(exc).__name__}", code="telegram_away") from None
        if not answer.is_success:
            raise _failure(answer)


def _failure(answer: httpx.Response) -> errors.OrderflowError:
    status, said = answer.status_code, _description(answer)
    if status == 429:
        return errors.Overloaded("Telegram's limit is reached", code="telegram_limit", retry_after_s=_retry_after_s(answer))
    if status == 400 and "chat not found" not in said.lower():
        return errors.Refused(f"Telegram does not take the text: {said}", code="telegram_text")
    if status >= 500:
        return errors.Unavailable(f"Telegram answered {status}: {said}", code="telegram_away", retry_after_s=RETRY_AFTER_DEFAULT_S)
    log.error("Telegram refuses our settings: check TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID", extra={"status": status, "reason": said})
    return errors.Unavailable(f"Telegram answered {status}: {said}", code="telegram_settings", retry_after_s=RETRY_AFTER_DEFAULT_S)


def _body(answer: httpx.Response) -> dict[str, object]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _description(answer: httpx.Response) -> str:
    return masking.text(str(_body(answer).get("description", "")))[:200]  # a proxy's may repeat the URL


def _retry_after_s(answer: httpx.Response) -> float:
    parameters = _body(answer).get("parameters")
    wait = parameters.get("retry_after") if isinstance(parameters, dict) else None
    return float(wait) if isinstance(wait, int | float) and 0 < wait < 86_400 else RETRY_AFTER_DEFAULT_S

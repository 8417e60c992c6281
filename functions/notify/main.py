"""A paid or an assembled order is announced: one message by Telegram, or in the log, without its user, where Telegram is off."""

import functools
import logging

from functions.notify import messages, telegram
from shared import config, events, masking
from shared.delivery import on_each

log = logging.getLogger(__name__)


@on_each(events.OrderPaid, events.OrderAssembled, inbox="notification_inbox_events")
async def handle(event: events.OrderPaid | events.OrderAssembled) -> None:
    """Send the message of one event, whose inbox row is claimed with a lease and is marked as sent afterwards.

    A message can repeat only when its outcome was not recorded: after a crash between the send and the mark, when Telegram's answer was
    lost, and when the database did not take the mark.
    """
    told = f"order {event.order_id} is announced by Telegram"
    if config.settings().telegram_enabled:
        await _telegram().send(messages.text(event))
    else:
        told = "; ".join(messages.text(event, user=masking.MASK).splitlines())
    log.info(
        "notification: %s",
        told,
        extra={"event_id": event.event_id, "order_id": event.order_id, "event_type": event.event_type},
    )


@functools.cache
def _telegram() -> telegram.Telegram:
    return telegram.Telegram.of(config.settings())

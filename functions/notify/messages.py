"""What a notification says."""

from shared import events


def text(event: events.OrderPaid | events.OrderAssembled, *, user: str | None = None) -> str:
    """The message of an event in plain text: order, user, time; for a payment also the amount and the method.

    `user` stands for the user's id where the message is not for those who may read that.
    """
    user = event.user_id if user is None else user
    moment = event.occurred_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(event, events.OrderPaid):
        lines = [
            f"Order {event.order_id} is paid",
            f"User: {user}",
            f"Amount: {amount(event.amount)}",
            f"Payment method: {event.payment_method}",
        ]
    else:
        lines = [f"Order {event.order_id} is assembled", f"User: {user}"]
    # An id may hold a line separator of Unicode, and is not to look like a line of ours.
    return "\n".join(" ".join(line.splitlines()) for line in [*lines, f"Time: {moment}"])


def amount(kopecks: int) -> str:
    """Kopecks as roubles and kopecks: 1234567 is `12 345.67 ₽`."""
    roubles, rest = divmod(kopecks, 100)
    return f"{roubles:,}".replace(",", " ") + f".{rest:02} ₽"

"""What a notification says."""

from shared import events


def text(event: events.OrderPaid | events.OrderAssembled, *, user: str | None = None) -> str:
    """The message of an event in plain text: order, user, time; for a payment also the amount and the method.

    `user` stands for the user's id where the message is not for those who may read that.
    """
    user = event.user_id if user is None else user
    moment = event.occurred_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(event, events.OrderPaid):
        return (
            f"Order {event.order_id} is paid\nUser: {user}\nAmount: {amount(event.amount)}\n"
            f"Payment method: {event.payment_method}\nTime: {moment}"
        )
    return f"Order {event.order_id} is assembled\nUser: {user}\nTime: {moment}"


def amount(kopecks: int) -> str:
    """Kopecks as roubles and kopecks: 1234567 is `12 345.67 ₽`."""
    roubles, rest = divmod(kopecks, 100)
    return f"{roubles:,}".replace(",", " ") + f".{rest:02} ₽"

"""What a notification says."""

from shared import events


def text(event: events.OrderPaid | events.OrderAssembled) -> str:
    """The message of an event in plain text: order, user, time; for a payment also the amount and the method."""
    moment = event.occurred_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(event, events.OrderPaid):
        return (
            f"Order {event.order_id} is paid\nUser: {event.user_id}\nAmount: {amount(event.amount)}\n"
            f"Payment method: {event.payment_method}\nTime: {moment}"
        )
    return f"Order {event.order_id} is assembled\nUser: {event.user_id}\nTime: {moment}"


def amount(kopecks: int) -> str:
    """Kopecks as roubles and kopecks: 1234567 is `12 345.67 ₽`."""
    roubles, rest = divmod(kopecks, 100)
    return f"{roubles:,}".replace(",", " ") + f".{rest:02} ₽"

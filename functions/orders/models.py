"""What a client sends and gets, with every bound stated once; the OpenAPI page is made from it."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared import events

ITEMS_MAX = 100
QUANTITY_UNITS_MAX = 1_000_000
PAGE_ORDERS_MAX, PAGE_ORDERS_DEFAULT = 100, 20
BODY_BYTES_MAX = 256 * 1024  # 100 items whose ids are written in escapes throughout still fit


class Item(BaseModel):
    """So many units of one product."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    product_id: events.Id
    quantity: Annotated[int, Field(strict=True, ge=1, le=QUANTITY_UNITS_MAX, description="units")]


class NewOrder(BaseModel):
    """An order as it is placed. A product that is named twice is one item with the sum of its quantities."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        json_schema_extra={"example": {"user_id": "user-1", "items": [{"product_id": "tea", "quantity": 2}]}},
    )

    user_id: events.Id
    items: Annotated[list[Item], Field(min_length=1, max_length=ITEMS_MAX)]

    def merged(self) -> dict[str, int]:
        """Units by product, in the order of the product ids."""
        units: dict[str, int] = {}
        for item in self.items:
            units[item.product_id] = units.get(item.product_id, 0) + item.quantity
        return dict(sorted(units.items()))

    def canonical_sha256(self) -> bytes:
        """What is ordered, whatever the spelling: equal for bodies that would make the same order."""
        return hashlib.sha256(json.dumps([self.user_id, list(self.merged().items())]).encode()).digest()


class OrderedItem(BaseModel):
    """So many units of one product, equal products summed up."""

    product_id: str
    quantity: Annotated[int, Field(description="units")]


class Order(BaseModel):
    """An order as it stands. Its items are sorted by product id."""

    id: str
    user_id: str
    status: Literal["paid", "assembled"]
    items: list[OrderedItem]


class Page(BaseModel):
    """Some of a user's orders, newest first."""

    orders: list[Order]
    next_cursor: Annotated[str | None, Field(description="the `cursor` of the next page; null on the last")]


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    field: Annotated[str, Field(description="where: `items.0.quantity`, `limit`, `Idempotency-Key`, `body`")]
    rule: Annotated[str, Field(description="which rule is broken, for programs")]
    detail: Annotated[str, Field(description="the same for people")]


class Problem(BaseModel):
    """Why a request failed (RFC 9457)."""

    title: str
    status: int
    code: Annotated[str, Field(description="what failed, for programs")]
    detail: Annotated[str, Field(description="the same for people")]
    errors: Annotated[list[Fault], Field(default_factory=list, description="the fields that are wrong")]

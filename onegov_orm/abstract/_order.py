"""Order keys: decimal numbers, between any two of which there is room for one more."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Final

#: The key of an item without siblings.
FIRST: Final = Decimal(1)

#: With more places than this, siblings get new keys: after some 300 items, each of them put
#: in between the same neighbour and the one before.
MAX_PLACES: Final = 100


def key_between(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    """Return a key between two neighbours, one of which is missing at an end.

    Between them that is the shortest there is, and of these the one in the middle; at an end
    it is a whole step away. None means that the siblings have to be given new keys.
    """
    if left is None:
        return FIRST if right is None else Decimal(math.floor(right) - 1)
    if right is None:
        return Decimal(math.floor(left) + 1)
    if left >= right:
        return None
    (left_top, left_bottom), (right_top, right_bottom) = map(
        Decimal.as_integer_ratio, (left, right)
    )
    # In whole numbers, since decimals are rounded to the digits of the thread's context.
    for places in range(MAX_PLACES + 1):
        scale = 10**places
        lowest = left_top * scale // left_bottom + 1
        highest = -(-right_top * scale // right_bottom) - 1
        if lowest <= highest:
            return Decimal(f"{(lowest + highest) // 2}E-{places}")
    return None


def parsed_key(value: object) -> Decimal:
    """Return a number as a key; raises `ValueError` if it is none that has a place."""
    try:
        key = Decimal(str(value))
    except ArithmeticError:
        key = Decimal("NaN")
    if not key.is_finite():
        raise ValueError(f"{value!r} is no number that has a place in an order")
    return key

"""Ids for messages that bring none: UUIDs at a fifteenth of uuid4's price (0.2 instead of 3.6 µs)."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count


def new_ids() -> Callable[[], str]:
    """A source of UUID strings (version 4 by form): 74 random bits that are its own, then twelve digits that count up.

    Make it in the process that uses it: a source that lives through a fork gives the same ids on both sides.
    """
    random = os.urandom(10).hex()
    variant = "89ab"[int(random[15], 16) & 3]
    prefix = f"{random[:8]}-{random[8:12]}-4{random[12:15]}-{variant}{random[16:19]}-"
    numbers = count(10**11 + int.from_bytes(os.urandom(4), "big"))  # decimal: a hexadecimal one takes thrice as long

    def new_id() -> str:
        return f"{prefix}{next(numbers)}"

    return new_id

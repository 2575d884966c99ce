"""Sorting by title, which works with whatever people write, the same on all machines."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Any

from onegov_orm._url_names import normalize_for_url


def by_title(item: Any) -> tuple[str, str]:
    """Return what an item is sorted by: its title as in URLs, then as it is written.

    So 'Ä' comes with 'Ae', in the same place under any locale, and two titles are equal only
    if they are the same text.
    """
    return title_key("" if item.title is None else str(item.title))


# Whoever adds many items has all the others sorted again for each of them.
@lru_cache(maxsize=4096)
def title_key(title: str) -> tuple[str, str]:
    """Return what a title is sorted by."""
    return normalize_for_url(title), title


def is_sorted(keys: Iterable[Any]) -> bool:
    """Tell whether no key is less than the one before."""
    return not any(after < before for before, after in pairwise(keys))


class AsItWas:
    """An item with the title that it had before."""

    def __init__(self, item: Any, title: Any) -> None:
        self.title = title
        self._item = item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._item, name)

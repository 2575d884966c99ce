"""Generations: what every cached value depends on, and what a change renews.

For each table of each schema the store holds a generation, a random text. A value is kept under
the generations that it was made from: renew one, and no process finds the value any more, those
included that never asked for it, or under another role.

While a transaction that changed a table is open, the generation says so, and nobody keeps
or believes anything. It is renewed when the transaction ended. A process that dies in between
leaves the mark, which loses its meaning after `MARK_SECONDS`.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

from dogpile.cache import CacheRegion
from dogpile.cache.api import NO_VALUE

from onegov_orm.cache.regions import RecentEntries

logger = logging.getLogger("onegov_orm.cache")

#: How long the mark of an open transaction is believed: no transaction is idle for longer.
MARK_SECONDS: Final = 60 * 60

#: How many generations a process remembers, to know which ones it saw before.
_REMEMBERED: Final = 50_000

_MARK: Final = "!"

_TOKEN_BYTES: Final = 9

#: Numbers the moments of this process: what is smaller was earlier.
next_moment: Callable[[], int] = itertools.count(1).__next__


@dataclass(frozen=True, slots=True)
class Observation:
    """The generations of some keys, and the moment since when this process knows all of them.

    ``kept`` is what is kept in another place, None if that is nothing.
    """

    generations: tuple[str, ...]
    known_since: int
    kept: str | None


class Generations:
    """Reads and renews the generations in a region."""

    def __init__(self, region: CacheRegion) -> None:
        self._region = region
        self._known = RecentEntries(_REMEMBERED)
        #: What could not be renewed when the store was out of reach.
        self._owed: set[str] = set()

    def observe(self, keys: Sequence[str], place: str) -> Observation | None:
        """Return the generations, None while a writer is at work or without an answer.

        What is kept in the place is read with the same message.
        """
        try:
            self._pay()
            region: Any = self._region
            *found, kept = region.get_multi([*keys, place])
            fresh = {
                key: token_hex(_TOKEN_BYTES)
                for key, value in zip(keys, found, strict=True)
                if value is NO_VALUE or _is_forgotten(value)
            }
            if fresh:
                self._region.set_multi(fresh)
        except Exception as error:  # whatever the store's client raises
            _warn("read", error)
            return None
        generations = [fresh.get(key, value) for key, value in zip(keys, found, strict=True)]
        if any(value.startswith(_MARK) for value in generations):
            return None
        moments = [self._moment(key, each) for key, each in zip(keys, generations, strict=True)]
        return Observation(
            tuple(generations), max(moments), None if kept is NO_VALUE else str(kept)
        )

    def mark(self, keys: Collection[str]) -> None:
        """Say that a transaction is changing what the keys stand for."""
        deadline = int(time.time()) + MARK_SECONDS
        self._write(keys, lambda: f"{_MARK}{deadline}:{token_hex(_TOKEN_BYTES)}")

    def renew(self, keys: Collection[str]) -> None:
        """Give the keys new generations; without an answer, that is done later."""
        self._owed.update(keys)
        self._write(keys, lambda: token_hex(_TOKEN_BYTES))

    def _write(self, keys: Collection[str], make: Callable[[], str]) -> None:
        try:
            self._pay(except_for=keys)
            self._region.set_multi({key: make() for key in keys})
            self._owed.difference_update(keys)
        except Exception as error:  # whatever the store's client raises
            _warn("written", error)

    def _pay(self, except_for: Collection[str] = ()) -> None:
        """Renew what could not be renewed before."""
        owed = self._owed.difference(except_for) if self._owed else None
        if owed:
            self._region.set_multi({key: token_hex(_TOKEN_BYTES) for key in owed})
            self._owed -= owed

    def _moment(self, key: str, generation: str) -> int:
        """Return since when this process knows the generation."""
        known: Any = self._known.get(key)
        if known is None or known[0] != generation:
            known = self._known[key] = (generation, next_moment())
        return int(known[1])


def _is_forgotten(value: str) -> bool:
    """Tell whether this is the mark of a process that is gone."""
    if not value.startswith(_MARK):
        return False
    return int(value[1:].partition(":")[0]) < time.time()


def _warn(what: str, error: Exception) -> None:
    logger.warning("the cache can't be %s, and is left out: %s", what, error)

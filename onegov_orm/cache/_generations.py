"""Generations: what every cached value depends on, and what a change renews.

For each table of each schema the store holds a generation, a random text. A value is kept under
the generations that it was made from: renew one, and no process finds the value any more, those
included that never asked for it, or under another role.

While transactions that changed a table are open, its generation is a list of their marks, and
nobody keeps or believes anything. The last one renews it when it is over. A process that dies in
between leaves its mark, which loses its meaning after `MARK_SECONDS`.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

from dogpile.cache import CacheRegion
from dogpile.cache.api import NO_VALUE

from onegov_orm.cache.regions import RecentEntries

logger = logging.getLogger("onegov_orm.cache")

#: How long the mark of an open transaction is believed: no transaction is idle for longer.
MARK_SECONDS: Final = 60 * 60

#: How long a store that did not answer is left alone.
AWAY_SECONDS: Final = 5.0

#: How many generations a process remembers, to know which ones it saw before.
_REMEMBERED: Final = 50_000

_MARKS: Final = "!"

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
    """Reads, marks and renews the generations in a region."""

    def __init__(self, region: CacheRegion) -> None:
        self._region: Any = region
        self._known = RecentEntries(_REMEMBERED)
        #: What could not be renewed when the store was out of reach.
        self._owed: set[str] = set()
        self._away_until = 0.0

    def observe(self, keys: Sequence[str], place: str) -> Observation | None:
        """Return the generations, None while a writer is at work or without an answer.

        What is kept in the place is read with the same message.
        """
        if self._is_away:
            return None
        try:
            self._pay()
            *found, kept = self._region.get_multi([*keys, place])
            fresh = {
                key: token_hex(_TOKEN_BYTES)
                for key, value in zip(keys, found, strict=True)
                if value is NO_VALUE or _is_forgotten(value)
            }
            if fresh:
                self._region.set_multi(fresh)
        except Exception as error:  # whatever the store's client raises
            self._leave_alone("read", error)
            return None
        generations = [fresh.get(key, value) for key, value in zip(keys, found, strict=True)]
        if any(value.startswith(_MARKS) for value in generations):
            return None
        moments = [self._moment(key, each) for key, each in zip(keys, generations, strict=True)]
        text = None if kept is NO_VALUE else str(kept)
        return Observation(tuple(generations), max(moments), text)

    def mark(self, keys: Collection[str], mark: str) -> None:
        """Say that a transaction is changing what the keys stand for."""
        own = f"{mark}@{int(time.time()) + MARK_SECONDS}"
        self._change(keys, lambda others: [*others, own], mark)

    def renew(self, keys: Collection[str], mark: str | None = None) -> None:
        """Take the mark away, and give the keys new generations if no other mark is there.

        Without an answer that is done later.
        """
        self._owed.update(keys)
        self._change(keys, lambda others: others, mark)

    def _change(
        self, keys: Collection[str], marks_of: Callable[[list[str]], list[str]], mark: str | None
    ) -> None:
        if self._is_away:
            return
        listed = list(keys)
        try:
            self._pay(except_for=keys)
            found = self._region.get_multi(listed)
            others = [list(_marks(value, except_for=mark)) for value in found]
            written = {
                key: _MARKS + ",".join(marks) if (marks := marks_of(each)) else new_mark()
                for key, each in zip(listed, others, strict=True)
            }
            self._write(written)
            self._owed.difference_update(keys)
        except Exception as error:  # whatever the store's client raises
            self._leave_alone("written", error)

    def _write(self, values: dict[str, str]) -> None:
        try:
            self._region.set_multi(values)
        except Exception:
            # A store that is full still lets go of what it has, which is as good.
            self._region.delete_multi(list(values))

    def _pay(self, except_for: Collection[str] = ()) -> None:
        """Renew what could not be renewed before."""
        owed = self._owed.difference(except_for) if self._owed else None
        if owed:
            self._write({key: new_mark() for key in owed})
            self._owed -= owed

    @property
    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until

    def _leave_alone(self, what: str, error: Exception) -> None:
        self._away_until = time.monotonic() + AWAY_SECONDS
        logger.warning("the cache can't be %s, and is left out: %s", what, error)

    def _moment(self, key: str, generation: str) -> int:
        """Return since when this process knows the generation."""
        known: Any = self._known.get(key)
        if known is None or known[0] != generation:
            known = self._known[key] = (generation, next_moment())
        return int(known[1])


def new_mark() -> str:
    """Return a random text that nobody else has."""
    return token_hex(_TOKEN_BYTES)


def _marks(value: Any, except_for: str | None = None) -> Iterator[str]:
    """Yield the marks that are believed."""
    if value is not NO_VALUE and value.startswith(_MARKS):
        for each in value[1:].split(","):
            name, _, deadline = each.partition("@")
            if name != except_for and int(deadline) >= time.time():
                yield each


def _is_forgotten(value: str) -> bool:
    """Tell whether there are only marks of processes that are gone."""
    return value.startswith(_MARKS) and not any(_marks(value))

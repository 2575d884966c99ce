"""One makes a value, the others wait for it.

dogpile.cache does that with a lock of its region: of all processes with Redis, of all threads in
memory. A task must not wait in a thread's lock, for the one that has it may be a task of the
same thread: tasks wait for each other by asyncio's own locks, in one process.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from typing import Final

from dogpile.cache import CacheRegion
from dogpile.cache.api import NO_VALUE
from sqlalchemy.util import await_only

logger = logging.getLogger("onegov_orm.cache")

_SEPARATOR: Final = "|"


class Stampede:
    """Has each value made only once, and keeps it in its place."""

    def __init__(self, region: CacheRegion, *, is_async: bool) -> None:
        self._region = region
        self._alone = self._alone_in_loop if is_async else self._alone_among_all
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def get(self, place: str, stamp: str, create: Callable[[], str]) -> str:
        """Return what is kept in the place under the stamp, made if that is nothing.

        Without an answer of the store it is made; what ``create`` raises is raised.
        """

        def look_and_make() -> str:
            found = unstamped(self._peek(place), stamp)
            if found is None:
                found = create()
                self._keep(place, f"{stamp}{_SEPARATOR}{found}")
            return found

        return self._alone(f"{place}:{stamp}", look_and_make)

    def _alone_among_all(self, key: str, make: Callable[[], str]) -> str:
        making = _Making(make)
        try:
            # The lock is what it is about: nothing is kept under its key.
            return str(self._region.get_or_create(key, making, should_cache_fn=lambda _: False))
        except Exception as error:  # ours are told from the store's
            if making.error is not None:
                raise
            _warn(error)
            return make() if making.value is None else making.value

    def _alone_in_loop(self, key: str, make: Callable[[], str]) -> str:
        lock = self._locks.setdefault(key, asyncio.Lock())
        await_only(lock.acquire())
        try:
            return make()
        finally:
            lock.release()

    def _peek(self, place: str) -> str | None:
        try:
            found = self._region.get(place)
        except Exception as error:  # whatever the store's client raises
            _warn(error)
            return None
        return None if found is NO_VALUE else str(found)

    def _keep(self, place: str, value: str) -> None:
        try:
            self._region.set(place, value)
        except Exception as error:  # whatever the store's client raises
            _warn(error)


def unstamped(kept: str | None, stamp: str) -> str | None:
    """Return what is kept, None if that is nothing, or is kept under another stamp."""
    found, separator, text = (kept or "").partition(_SEPARATOR)
    return text if separator and found == stamp else None


class _Making:
    """Makes a value, and remembers how that ended."""

    def __init__(self, create: Callable[[], str]) -> None:
        self._create = create
        self.value: str | None = None
        self.error: BaseException | None = None

    def __call__(self) -> str:
        try:
            self.value = self._create()
        except BaseException as error:
            self.error = error
            raise
        return self.value


def _warn(error: Exception) -> None:
    logger.warning("the cache is out of reach, and is left out: %s", error)

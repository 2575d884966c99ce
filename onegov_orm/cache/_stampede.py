"""One makes a value, the others wait for it; but not for ever.

Who makes it has a lock: of all processes with Redis, of all threads in memory. A task must not
wait in a thread's lock, for the one that has it may be a task of the same thread: tasks wait for
each other by asyncio's own locks, in one process.

Somebody who waits too long makes the value as well: the one that has the lock may be dead, or wait
for a lock of the database that the waiting transaction has.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from dogpile.cache import CacheRegion
from dogpile.cache.api import NO_VALUE
from sqlalchemy.util import await_only

logger = logging.getLogger("onegov_orm.cache")

#: How long to wait for somebody else's value, in seconds.
WAIT_SECONDS: Final = 5.0

#: How long to wait before looking again.
_NAP_SECONDS: Final = 0.01

_SEPARATOR: Final = "|"

#: Makes a value, and tells whether it may be kept for others.
Make = Callable[[], tuple[str, bool]]


class _Lock:
    """A lock of this process's, in the form that dogpile.cache's are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, wait: bool = True) -> bool:
        return self._lock.acquire(wait)

    def release(self) -> None:
        self._lock.release()


class Stampede:
    """Has each value made only once, and keeps it in its place."""

    def __init__(self, region: CacheRegion, *, is_async: bool) -> None:
        self._region: Any = region
        self._get = self._get_in_loop if is_async else self._get_among_all
        self._locks: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()

    def get(self, place: str, stamp: str, make: Make) -> str:
        """Return what is kept in the place under the stamp, made if that is nothing.

        Without an answer of the store it is made; what ``make`` raises is raised.
        """
        return self._get(place, stamp, make)

    def _get_among_all(self, place: str, stamp: str, make: Make) -> str:
        lock = self._lock(f"{place}:{stamp}")
        deadline = time.monotonic() + WAIT_SECONDS
        while not _taken(lock):
            if time.monotonic() > deadline:
                logger.warning("nobody has made %s in %s s: it is made twice", place, WAIT_SECONDS)
                return self._make(place, stamp, make)
            time.sleep(_NAP_SECONDS)
            found = self._peek(place, stamp)
            if found is not None:
                return found
        try:
            found = self._peek(place, stamp)
            return self._make(place, stamp, make) if found is None else found
        finally:
            _release(lock)

    def _get_in_loop(self, place: str, stamp: str, make: Make) -> str:
        lock = self._locks.setdefault(f"{place}:{stamp}", asyncio.Lock())
        await_only(lock.acquire())
        try:
            found = self._peek(place, stamp)
            return self._make(place, stamp, make) if found is None else found
        finally:
            lock.release()

    def _lock(self, key: str) -> Any:
        return self._region.actual_backend.get_mutex(key) or self._locks.setdefault(key, _Lock())

    def _make(self, place: str, stamp: str, make: Make) -> str:
        value, may_be_kept = make()
        if may_be_kept:
            try:
                self._region.set(place, f"{stamp}{_SEPARATOR}{value}")
            except Exception as error:  # whatever the store's client raises
                _warn(error)
        return value

    def _peek(self, place: str, stamp: str) -> str | None:
        try:
            found = self._region.get(place)
        except Exception as error:  # whatever the store's client raises
            _warn(error)
            return None
        return None if found is NO_VALUE else unstamped(found, stamp)


def unstamped(kept: str | None, stamp: str) -> str | None:
    """Return what is kept, None if that is nothing, or is kept under another stamp."""
    found, separator, text = (kept or "").partition(_SEPARATOR)
    return text if separator and found == stamp else None


def _taken(lock: Any) -> bool:
    """Take the lock if it is free; without an answer of the store there is none to take."""
    try:
        return bool(lock.acquire(False))
    except Exception as error:  # whatever the store's client raises
        _warn(error)
        return True


def _release(lock: Any) -> None:
    try:
        lock.release()
    except Exception as error:  # it may have run out, or the store be gone
        _warn(error)


def _warn(error: Exception) -> None:
    logger.warning("the cache is out of reach, and is left out: %s", error)

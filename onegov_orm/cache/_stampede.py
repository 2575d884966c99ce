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

from dogpile.cache import CacheRegion
from dogpile.cache.api import NO_VALUE
from sqlalchemy.util import await_only

logger = logging.getLogger("onegov_orm.cache")


class Stampede:
    """Gets values from a region, and has each one made only once."""

    def __init__(self, region: CacheRegion, *, is_async: bool) -> None:
        self._region = region
        self._get = self._get_in_loop if is_async else self._get_in_thread
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def get(self, key: str, create: Callable[[], str]) -> str:
        """Return the value of the key, made and kept if it is not there.

        Without an answer of the store it is made; what ``create`` raises is raised.
        """
        return self._get(key, create)

    def peek(self, key: str) -> str | None:
        """Return the value of the key if it is there."""
        try:
            found = self._region.get(key)
        except Exception as error:  # whatever the store's client raises
            _warn(error)
            return None
        return None if found is NO_VALUE else str(found)

    def _get_in_thread(self, key: str, create: Callable[[], str]) -> str:
        making = _Making(create)
        try:
            return str(self._region.get_or_create(key, making))
        except Exception as error:  # ours are told from the store's
            if making.error is not None:
                raise
            _warn(error)
            return create() if making.value is None else making.value

    def _get_in_loop(self, key: str, create: Callable[[], str]) -> str:
        found = self.peek(key)
        if found is not None:
            return found
        lock = self._locks.setdefault(key, asyncio.Lock())
        await_only(lock.acquire())
        try:
            found = self.peek(key)
            return self._keep(key, create()) if found is None else found
        finally:
            lock.release()

    def _keep(self, key: str, value: str) -> str:
        try:
            self._region.set(key, value)
        except Exception as error:  # whatever the store's client raises
            _warn(error)
        return value


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

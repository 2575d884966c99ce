"""Where cached values are kept: dogpile.cache regions, without pickles."""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from typing import Any, Final

from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import BytesBackend
from dogpile.cache.backends.memory import MemoryBackend

from onegov_orm.cache._redis import NAME as BACKEND
from onegov_orm.errors import ConfigurationError

#: How many entries a region in memory keeps: those that were used last.
MEMORY_ENTRIES: Final = 10_000

#: How long an entry is kept at the most, in seconds: what was forgotten goes away by itself.
EXPIRATION_SECONDS: Final = 24 * 60 * 60

#: After how many seconds the lock of a process that died is free again.
LOCK_SECONDS: Final = 60

#: How long Redis may take to answer, in seconds; without an answer there is no cache.
_SOCKET_SECONDS: Final = 2.0


class RecentEntries(OrderedDict[str, Any]):
    """A dictionary of bounded size for several threads: the oldest entries go."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._lock = threading.RLock()

    def get(self, key: str, default: Any = None) -> Any:
        """Return an entry, and note that it was used."""
        with self._lock:
            if key in self:
                self.move_to_end(key)
                return super().__getitem__(key)
            return default

    def __setitem__(self, key: str, value: Any) -> None:
        with self._lock:
            super().__setitem__(key, value)
            self.move_to_end(key)
            while len(self) > self._size:
                self.popitem(last=False)

    def pop(self, key: str, default: Any = None) -> Any:
        """Remove an entry, if it is there."""
        with self._lock:
            return super().pop(key, default)


def memory_region(
    entries: int = MEMORY_ENTRIES, expiration_seconds: int = EXPIRATION_SECONDS
) -> CacheRegion:
    """Return a region in the memory of this process, for an application of one process.

    Other processes neither see it nor tell it of their changes.
    """
    return make_region().configure(
        "dogpile.cache.memory",
        expiration_time=expiration_seconds,
        arguments={"cache_dict": RecentEntries(entries)},
    )


def redis_region(
    url: str,
    expiration_seconds: int = EXPIRATION_SECONDS,
    lock_seconds: int = LOCK_SECONDS,
    **arguments: Any,
) -> CacheRegion:
    """Return a region in Redis, which all processes of an application share.

    :param url: such as ``redis://localhost:6379/0``.
    :param lock_seconds: after how long the lock of a process that died is free again; nobody
        waits for longer than five seconds.
    :param arguments: more of dogpile.cache's arguments for its Redis backend.
    """
    defaults = {
        "url": url,
        "redis_expiration_time": expiration_seconds,
        "distributed_lock": True,
        "thread_local_lock": False,
        "lock_timeout": lock_seconds,
        "socket_timeout": _SOCKET_SECONDS,
        "socket_connect_timeout": _SOCKET_SECONDS,
    }
    try:
        return make_region(serializer=_encode, deserializer=_decode).configure(
            BACKEND,
            expiration_time=expiration_seconds,
            arguments=defaults | arguments,
        )
    except ImportError as exc:
        raise ConfigurationError(f"{exc}: pip install 'onegov_orm[redis]'") from exc


def refuse_pickles(region: CacheRegion) -> None:
    """Raise `ConfigurationError` for a region that runs what others may have written."""
    if not region.is_configured:
        raise ConfigurationError("the region is not configured yet: call its configure() first")
    backend = region.actual_backend
    writes_text = isinstance(backend, BytesBackend) and region.deserializer is not pickle.loads
    if not (writes_text or isinstance(backend, MemoryBackend)):
        raise ConfigurationError(
            "this region unpickles what it finds, and whoever can write to that store could run "
            "code here: use memory_region(), redis_region(), or make_region(serializer=..., "
            "deserializer=...) that write and read text, with a backend that leaves it to them"
        )


def _encode(payload: Any) -> bytes:
    return str(payload).encode()


def _decode(payload: bytes) -> str:
    return payload.decode()

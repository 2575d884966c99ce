"""What is current: schema, locale and unit of work, per thread, task and greenlet.

`Current` holds the ContextVars of one manager. `Scopes` keeps what belongs to one thread or
one asyncio task, and forgets it with that thread or task.
"""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from onegov_orm._tasks import current_task
from onegov_orm.errors import NoCurrentSchema
from onegov_orm.names import SchemaName

T = TypeVar("T")

#: The active manager of a thread or task, for models that are in no session.
active_manager: ContextVar[weakref.ref[Any] | None] = ContextVar("active_manager", default=None)


class Current:
    """The current values of one manager, never shared between threads or tasks.

    A child task starts with its parent's values and can't change them for the parent; a
    thread starts with none.
    """

    def __init__(self) -> None:
        self._schema: ContextVar[SchemaName | None] = ContextVar("schema", default=None)
        self.default_locale: ContextVar[str | None] = ContextVar("default_locale", default=None)
        self.current_locale: ContextVar[str | None] = ContextVar("current_locale", default=None)
        self.unit: ContextVar[Any] = ContextVar("unit", default=None)
        self.ignores_bulk_updates = ContextVar("ignores_bulk_updates", default=False)
        self.ignores_bulk_deletes = ContextVar("ignores_bulk_deletes", default=False)
        self.is_silent = ContextVar("is_silent", default=False)
        #: When something was last committed here, by the monotonic clock.
        self.last_write: ContextVar[float] = ContextVar("last_write", default=-math.inf)

    @property
    def schema(self) -> SchemaName | None:
        """The current schema, None if none was set."""
        return self._schema.get()

    @schema.setter
    def schema(self, value: SchemaName | None) -> None:
        self._schema.set(value)

    def require_schema(self) -> SchemaName:
        """Return the current schema; raises `NoCurrentSchema` rather than guess one."""
        schema = self._schema.get()
        if schema is None:
            raise NoCurrentSchema
        return schema


@contextmanager
def switched_on(flag: ContextVar[bool]) -> Iterator[None]:
    """Have the flag on inside the block, for this thread or task alone."""
    before = flag.get()
    flag.set(True)
    try:
        yield
    finally:
        flag.set(before)


def owner_name(thread: threading.Thread, task_name: str | None) -> str:
    """Name a thread or the task that runs in it, for messages."""
    return f"thread {thread.name}" if task_name is None else f"task {task_name}"


class Scopes(Generic[T]):
    """One value for each thread and each task, made when first asked for.

    A value goes away with its thread or task; nothing has to be cleaned up.
    """

    def __init__(self, factory: Callable[[], T]) -> None:
        self._factory = factory
        self._thread = threading.local()
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], T] = weakref.WeakKeyDictionary()

    def get(self) -> T:
        """Return the value of the thread or task that runs here."""
        task = current_task()
        if task is None:
            try:
                return self._thread.value  # type: ignore[no-any-return]
            except AttributeError:
                value = self._thread.value = self._factory()
                return value
        try:
            return self._tasks[task]
        except KeyError:
            return self._tasks.setdefault(task, self._factory())

    def clear(self) -> None:
        """Forget the values of all threads and tasks."""
        self._thread = threading.local()
        self._tasks.clear()

"""The same for asynchronous programs: everything runs in a thread, and can be awaited."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from types import ModuleType
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy.util import greenlet_spawn

from onegov_orm.fleet._companion import companion
from onegov_orm.fleet._fleet import Fleet
from onegov_orm.fleet.runner import Stopper
from onegov_orm.session_manager_async import AsyncSessionManager

P = ParamSpec("P")
R = TypeVar("R")


def _awaited(
    method: Callable[Concatenate[Fleet, P], R],
) -> Callable[Concatenate[AsyncFleet, P], Coroutine[Any, Any, R]]:
    """Return a method that runs that of the synchronous fleet in a thread."""

    @functools.wraps(method)
    async def awaited(self: AsyncFleet, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.in_thread(functools.partial(method, self.fleet), *args, **kwargs)

    return awaited


def _awaited_run(
    method: Callable[Concatenate[Fleet, P], R],
) -> Callable[Concatenate[AsyncFleet, P], Coroutine[Any, Any, R]]:
    """Return the same for what runs over schemas: a cancellation stops it.

    What is in flight is ended by the server and rolled back, before the cancellation is raised.
    """

    @functools.wraps(method)
    async def awaited(self: AsyncFleet, /, *args: P.args, **kwargs: P.kwargs) -> R:
        stop: Any = kwargs.setdefault("stop", Stopper())
        work = functools.partial(method, self.fleet)
        return await self.in_thread(work, *args, stop=stop, **_without_stop(kwargs))

    return awaited


class AsyncFleet:
    """Migrates, checks and cares for all customers of an `AsyncSessionManager`'s database.

    It has the methods of `Fleet`, to be awaited, which run in threads, on connections of a
    synchronous manager of its own: with psycopg2 for asyncpg, which has no synchronous side.
    """

    def __init__(
        self,
        mgr: AsyncSessionManager,
        *,
        migrations: str | os.PathLike[str] | None = None,
        upgrades: Iterable[str | ModuleType] | None = None,
    ) -> None:
        self.manager = mgr
        #: The fleet that does the work.
        self.fleet = Fleet(companion(mgr), migrations=migrations, upgrades=upgrades)

    async def create(self, schema: str) -> None:
        """Make a new customer's schema, complete; raises `SchemaExists`."""
        # By the asynchronous manager, since the subscribers may have to be awaited.
        await greenlet_spawn(self.manager._operations.make, schema)

    async def fill_spares(self, count: int) -> int:
        """Have so many schemas ready for new customers; returns how many were made."""
        missing = count - await self.in_thread(self.fleet.keep_spares)
        for _ in range(missing):
            await greenlet_spawn(self.manager._operations.make_spare)
        return max(0, missing)

    async def in_thread(self, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run work in a thread; a cancellation is raised when it has come to its end."""
        thread = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            stop = kwargs.get("stop")
            if isinstance(stop, Stopper):
                stop.interrupt()
            elif isinstance(stop, threading.Event):
                stop.set()
            await asyncio.wait([thread])
            raise

    async def dispose(self) -> None:
        """Close the connections of the fleet's own manager."""
        await asyncio.to_thread(self.fleet.manager.dispose)

    customers = _awaited(Fleet.customers)
    select = _awaited(Fleet.select)
    overview = _awaited(Fleet.overview)
    rename = _awaited(Fleet.rename)
    clone = _awaited(Fleet.clone)
    drop = _awaited_run(Fleet.drop)
    trash = _awaited(Fleet.trash)
    undo = _awaited(Fleet.undo)
    purge = _awaited_run(Fleet.purge)
    suspend = _awaited(Fleet.suspend)
    resume = _awaited(Fleet.resume)
    annotate = _awaited(Fleet.annotate)
    adopt = _awaited(Fleet.adopt)
    spares = _awaited(Fleet.spares)
    dump = _awaited(Fleet.dump)
    restore = _awaited(Fleet.restore)
    check = _awaited(Fleet.check)
    doctor = _awaited(Fleet.doctor)
    status = _awaited(Fleet.status)
    upgrade_status = _awaited(Fleet.upgrade_status)
    run = _awaited_run(Fleet.run)
    migrate = _awaited_run(Fleet.migrate)
    downgrade = _awaited_run(Fleet.downgrade)
    stamp = _awaited_run(Fleet.stamp)
    upgrade = _awaited_run(Fleet.upgrade)


def _without_stop(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "stop"}

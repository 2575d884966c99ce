"""Makes new schemas by the manager that was configured, which may be an asynchronous one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from onegov_orm.cli._invocation import Invocation

if TYPE_CHECKING:
    from onegov_orm.fleet import AsyncFleet


def create(invocation: Invocation, schema: str) -> None:
    """Make the schema of a new customer."""
    fleet = invocation.fleet(needs_models=True)
    if invocation.manager is fleet.manager:
        fleet.create(schema)
    else:
        _run(invocation, lambda twin: twin.create(schema))


def fill_spares(invocation: Invocation, count: int) -> int:
    """Make so many spares be there, and return how many were made."""
    fleet = invocation.fleet(needs_models=True)
    if invocation.manager is fleet.manager:
        return fleet.fill_spares(count)
    made: int = _run(invocation, lambda twin: twin.fill_spares(count))
    return made


def _run(
    invocation: Invocation, function: Callable[[AsyncFleet], Coroutine[Any, Any, Any]]
) -> Any:
    """Run a coroutine, since the subscribers of such a manager may have to be awaited."""
    # SQLAlchemy's asyncio is loaded by those whose manager needs it.
    from onegov_orm.fleet import AsyncFleet

    manager: Any = invocation.manager

    async def run() -> Any:
        twin = AsyncFleet(manager)
        try:
            return await function(twin)
        finally:
            # Its connections belong to this loop, which ends now.
            await manager.dispose()
            await twin.dispose()

    return asyncio.run(run())

"""Asynchronous managers that are broken on purpose: all the mistakes of `breakages`, and more.

These are those that are easily made where there are tasks in the place of threads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from onegov_orm import (
    _driver_asyncpg,
    _plans,
    _prelude,
    _scoped,
    _search_path,
    _session_async,
    context,
    session_manager_async,
    transactions,
)
from onegov_orm._driver_psycopg_async import SchemaAsyncConnection
from onegov_orm._tasks import current_task
from tests.conftest import ASYNC_DRIVERS
from tests.storms import breakages
from tests.storms.async_storm import WEATHERS, AsyncWeather
from tests.storms.customers import (
    ForeignRow,
    StateTravelled,
    StormFailure,
    UnexpectedError,
    WrongPath,
)

Break = Callable[[pytest.MonkeyPatch], None]

#: So many steps a storm has by default; most mistakes are noticed within a hundred.
LIMIT: Final = 5000
#: What is announced and what is committed is compared in the end.
LIMIT_OF_LEDGER: Final = 1200

#: How often a step is cancelled where a mistake shows with cancellations alone.
OFTEN: Final = 0.3


@dataclass(frozen=True)
class AsyncBreakage:
    """A mistake, how a storm may notice it, and in what weather."""

    run: Break
    noticed_as: tuple[type[StormFailure], ...]
    is_possible_in: Callable[[AsyncWeather], bool] = lambda weather: True
    needs_cancellations: bool = False
    steps: int = LIMIT
    #: With another driver it would be no mistake.
    drivers: tuple[str, ...] = ASYNC_DRIVERS

    @contextmanager
    def made(self) -> Iterator[None]:
        """Have managers make the mistake inside the block."""
        with pytest.MonkeyPatch.context() as patch:
            _prelude.prelude_of.cache_clear()
            self.run(patch)
            yield
        _prelude.prelude_of.cache_clear()

    @property
    def name(self) -> str:
        """What the mistake is."""
        return self.run.__name__

    def weather(self, number: int) -> AsyncWeather:
        """Return one of the storms in which it can be noticed."""
        weathers = [found for found in WEATHERS if self.is_possible_in(found)]
        weather = weathers[number % len(weathers)]
        return replace(weather, cancels=OFTEN) if self.needs_cancellations else weather


def has_siblings(weather: AsyncWeather) -> bool:
    return weather.workers > 1


def is_exact(weather: AsyncWeather) -> bool:
    return weather.exact


ASYNC_BREAKAGES: Final[list[AsyncBreakage]] = [
    AsyncBreakage(
        found.run,
        # Where tasks meet, a broken transaction may end in many ways.
        (*found.noticed_as, UnexpectedError),
        has_siblings if found.needs_threads else lambda weather: True,
    )
    for found in breakages.BREAKAGES
]


def breakage(*noticed_as: type[StormFailure], **options: Any) -> Callable[[Break], Break]:
    """Make a function one of the mistakes."""

    def register(run: Break) -> Break:
        ASYNC_BREAKAGES.append(AsyncBreakage(run, noticed_as, **options))
        return run

    return register


@breakage(ForeignRow, WrongPath, UnexpectedError)
def sessions_belong_to_threads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(context, "current_task", lambda: None)


@breakage(WrongPath)
def children_inherit_the_unit(patch: pytest.MonkeyPatch) -> None:
    def store(manager: Any) -> Any:
        return manager._current.unit.get() or manager._scopes.get()

    patch.setattr(_scoped.ScopedSessions, "_store", store)


@breakage(ForeignRow, UnexpectedError, drivers=("asyncpg",))
def plans_are_known_by_text_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_plans.Plans, "_key", lambda plans, plan: (plan.query, None))


@breakage(ForeignRow, WrongPath, StateTravelled, UnexpectedError)
def cancelled_connection_is_not_cleaned(patch: pytest.MonkeyPatch) -> None:
    for connection_class in (_driver_asyncpg.SchemaConnection, SchemaAsyncConnection):
        patch.setattr(connection_class, "clean", _cleaning_unless_cancelled(connection_class))


def _cleaning_unless_cancelled(connection_class: Any) -> Any:
    clean = connection_class.clean

    async def clean_in_peace(connection: Any) -> None:
        task = current_task()
        if task is None or not task.cancelling():
            await clean(connection)

    return clean_in_peace


@breakage(
    UnexpectedError, is_possible_in=is_exact, needs_cancellations=True, steps=LIMIT_OF_LEDGER
)
def commit_is_interrupted(patch: pytest.MonkeyPatch) -> None:
    """What is committed may not be announced."""

    async def interruptible(work: Awaitable[Any]) -> Any:
        return await work

    for module in (_session_async, session_manager_async):
        patch.setattr(module, "uninterrupted", interruptible)


@breakage(UnexpectedError, is_possible_in=is_exact, steps=LIMIT_OF_LEDGER)
def aborts_are_announced(patch: pytest.MonkeyPatch) -> None:
    calls = transactions.Completion.calls
    patch.setattr(transactions.Completion, "calls", lambda self, _is_committed: calls(self, True))


@breakage(UnexpectedError)
def readers_may_write(patch: pytest.MonkeyPatch) -> None:
    def writing(schema: Any, extensions_schema: Any, access: Any = None) -> Any:
        return _prelude.Prelude(schema, extensions_schema)

    patch.setattr(_search_path, "prelude_of", writing)

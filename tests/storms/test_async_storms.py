"""Storms of tasks, with cancellations: no foreign row, and what is announced is committed.

``ONEGOV_ORM_STORM_STEPS`` says how many steps each storm has, ``ONEGOV_ORM_STORM_SEED``
repeats a storm.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.asynchronous import run_tidily
from tests.conftest import ASYNC_DRIVERS
from tests.storms.async_operations import ASYNC_OPERATIONS
from tests.storms.async_storm import WEATHERS, AsyncStorm, AsyncWeather
from tests.storms.customers import Execute, Watch
from tests.storms.storm import ENOUGH_FOR_ALL

#: The cursors of a connection that is lost, or of a task that is cancelled, can't be closed.
UNCLOSED = "ignore:<onegov_orm._driver_psycopg_async.SchemaAsyncServerCursor:ResourceWarning"

#: SQLAlchemy says so when a cancellation took the connection away from a savepoint.
DEASSOCIATED = "ignore:nested transaction already deassociated"

pytestmark = [
    pytest.mark.storm,
    pytest.mark.filterwarnings(UNCLOSED),
    pytest.mark.filterwarnings(DEASSOCIATED),
]

#: Steps of each storm.
STEPS = int(os.environ.get("ONEGOV_ORM_STORM_STEPS", "5000"))
SERVERS = 2


@pytest.fixture(autouse=True)
def no_warnings_logged() -> Iterator[None]:
    """The warnings of moved paths would fill the memory of the test run."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("weather", WEATHERS, ids=lambda weather: weather.name)
def test_no_row_is_foreign(
    weather: AsyncWeather, async_dsn: str, outside: Callable[[str], Execute]
) -> None:
    seed = int(os.environ.get("ONEGOV_ORM_STORM_SEED") or random.randrange(2**32))

    async def main() -> None:
        watches = partial(_watch, outside, async_dsn)
        storm = AsyncStorm(weather, async_dsn, watches, seed, ASYNC_OPERATIONS)
        try:
            await storm.begin()
            await storm.run(STEPS)
            print(storm.summary())
        finally:
            await storm.close()
        assert storm.log.steps >= STEPS
        assert STEPS < ENOUGH_FOR_ALL or storm.undone() == set()

    run_tidily(main)


@pytest.mark.skipif(
    "ONEGOV_ORM_STORM_STEPS" in os.environ, reason="the number of steps was chosen"
)
def test_hundred_thousand_steps_are_done() -> None:
    assert STEPS * len(WEATHERS) * len(ASYNC_DRIVERS) * SERVERS >= 100_000


def _watch(outside: Callable[[str], Execute], dsn: str) -> Watch:
    return Watch(outside(dsn))

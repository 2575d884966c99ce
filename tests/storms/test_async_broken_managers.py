"""Each storm of tasks notices an asynchronous manager that is broken on purpose.

Each mistake is made with each driver on each server, every time in another storm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from tests.asynchronous import run_tidily
from tests.conftest import ASYNC_DRIVERS, Databases
from tests.storms.async_breakages import ASYNC_BREAKAGES, AsyncBreakage
from tests.storms.async_operations import ASYNC_OPERATIONS
from tests.storms.async_storm import AsyncStorm
from tests.storms.customers import Execute, StormFailure, Watch

#: A storm that fails leaves cursors, connections and tasks behind.
pytestmark = [
    pytest.mark.storm,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


#: How many storms a mistake has to show itself in.
STORMS = 5


@pytest.fixture(autouse=True)
def no_warnings_logged() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("breakage", "async_driver"),
    [(found, driver) for found in ASYNC_BREAKAGES for driver in found.drivers],
    indirect=["async_driver"],
    ids=lambda value: getattr(value, "name", value),
)
def test_storm_notices(
    breakage: AsyncBreakage,
    databases: Databases,
    async_driver: str,
    outside: Callable[[str], Execute],
) -> None:
    failures: list[StormFailure] = []

    async def main(dsn: str, number: int) -> None:
        watches = partial(_watch, outside, dsn)
        is_newest = watches().is_newest
        combination = ASYNC_DRIVERS.index(async_driver) + 2 * is_newest + number
        weather = breakage.weather(ASYNC_BREAKAGES.index(breakage) + combination)
        storm = AsyncStorm(weather, dsn, watches, number, ASYNC_OPERATIONS)
        try:
            await storm.begin()
            with breakage.made():
                await storm.run(breakage.steps)
        except StormFailure as failure:
            failures.append(failure)
        finally:
            await storm.close()
        found = f"{failures[0]}".partition("\n")[0] if failures else "nothing"
        print(f"{weather.name}: noticed after {storm.log.steps} steps: {found}")

    # What a mistake needs to show may not come up in a single storm.
    for number in range(STORMS):
        name = databases.create()
        dsn = databases.server.dsn(name, driver=async_driver.partition("-")[0], tcp=False)
        with suppress(AssertionError):  # what a broken manager leaves behind
            run_tidily(partial(main, dsn, number))
        databases.drop(name)
        if failures:
            break
    assert failures, "nothing was noticed"
    assert isinstance(failures[0], breakage.noticed_as)


def _watch(outside: Callable[[str], Execute], dsn: str) -> Watch:
    return Watch(outside(dsn))

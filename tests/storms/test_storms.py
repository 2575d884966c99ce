"""Storms: random interleavings of all that can be done with a manager, and no foreign row.

``ONEGOV_ORM_STORM_STEPS`` says how many steps each storm has, ``ONEGOV_ORM_STORM_SEED``
repeats a storm.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import DRIVERS
from tests.storms.customers import Execute, Watch
from tests.storms.operations import OPERATIONS
from tests.storms.storm import ENOUGH_FOR_ALL, STEPS, WEATHERS, Storm, Weather

#: The cursors of a connection that was killed can't be closed.
pytestmark = [
    pytest.mark.storm,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    # What SQLAlchemy says when the connection of a savepoint was killed.
    pytest.mark.filterwarnings("ignore:nested transaction already deassociated"),
]

SERVERS = 2


@pytest.fixture(autouse=True)
def no_warnings_logged() -> Iterator[None]:
    """The warnings of moved paths would fill the memory of the test run."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("weather", WEATHERS, ids=lambda weather: weather.name)
def test_no_row_is_foreign(weather: Weather, dsn: str, outside: Callable[[str], Execute]) -> None:
    seed = int(os.environ.get("ONEGOV_ORM_STORM_SEED") or random.randrange(2**32))
    storm = Storm(weather, dsn, Watch(outside(dsn)), seed, OPERATIONS)
    try:
        storm.begin()
        storm.run(STEPS)
        print(storm.summary())
    finally:
        storm.close()
    assert storm.log.steps >= STEPS
    assert STEPS < ENOUGH_FOR_ALL or storm.undone() == set()


@pytest.mark.skipif(
    "ONEGOV_ORM_STORM_STEPS" in os.environ, reason="the number of steps was chosen"
)
def test_hundred_thousand_steps_are_done() -> None:
    assert STEPS * len(WEATHERS) * len(DRIVERS) * SERVERS >= 100_000

"""Storms: random interleavings of all that can be done with a manager, and no foreign row."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator

import pytest

from tests.storms.customers import Execute, Watch
from tests.storms.operations import OPERATIONS
from tests.storms.storm import STEPS, WEATHERS, Storm, Weather

pytestmark = pytest.mark.storm


@pytest.mark.parametrize("weather", WEATHERS, ids=lambda weather: weather.name)
def test_no_row_is_foreign(
    weather: Weather, dsn: str, outside: Callable[[str], Execute]
) -> None:
    seed = int(os.environ.get("ONEGOV_ORM_STORM_SEED") or random.randrange(2**32))
    storm = Storm(weather, dsn, Watch(outside(dsn)), seed, OPERATIONS)
    try:
        storm.begin()
        storm.run(STEPS)
    finally:
        storm.close()
    print(storm.summary())

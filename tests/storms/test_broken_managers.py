"""Each storm notices a manager that is broken on purpose.

Each mistake is made with each driver on each server, every time in another storm; so each
storm meets mistakes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import DRIVERS
from tests.storms.breakages import BREAKAGES, Breakage
from tests.storms.customers import Execute, Watch
from tests.storms.operations import OPERATIONS
from tests.storms.storm import Storm

#: A storm that fails leaves cursors open.
pytestmark = [
    pytest.mark.storm,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    # What SQLAlchemy says when the connection of a savepoint was killed.
    pytest.mark.filterwarnings("ignore:nested transaction already deassociated"),
]

#: So many steps a storm has by default; most mistakes are noticed within a hundred.
LIMIT = 5500


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_storm_notices(
    breakage: Breakage,
    dsn: str,
    driver: str,
    outside: Callable[[str], Execute],
) -> None:
    watch = Watch(outside(dsn))
    combination = DRIVERS.index(driver) + 2 * watch.is_newest
    weathers = breakage.weathers
    weather = weathers[(BREAKAGES.index(breakage) + combination) % len(weathers)]
    storm = Storm(weather, dsn, watch, 1, OPERATIONS)
    try:
        storm.begin()
        with breakage.made(), pytest.raises(breakage.noticed_as):
            storm.run(LIMIT)
    finally:
        storm.close()
    print(f"{weather.name}: noticed after {storm.log.steps} steps")

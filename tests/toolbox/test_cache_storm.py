"""A storm over cached values, and caches broken on purpose, which it has to find."""

from __future__ import annotations

import math
from typing import Any

import pytest

from onegov_orm.cache import memory_region
from onegov_orm.cache._generations import Generations
from onegov_orm.cache._identities import Identities
from onegov_orm.cache._memo import Memo
from onegov_orm.cache.orm_cache import OrmCache
from tests.toolbox.cache_storm import Astray, CacheStorm
from tests.toolbox.caching import App, Base
from tests.toolbox.conftest import NewTowns

SCHEMAS = ["storm-a", "storm-b", "storm-c"]
ROUNDS = 40
STEPS = 12


def storm(new_town: NewTowns, dsn: str, seed: int = 1) -> CacheStorm:
    app = App(new_town(Base, dsn=dsn), memory_region())
    return CacheStorm(app, SCHEMAS, seed)


@pytest.mark.storm
def test_no_customer_reads_what_is_anothers_or_outdated(
    new_town: NewTowns, plain_dsn: str
) -> None:
    found = storm(new_town, plain_dsn)
    found.run(ROUNDS, STEPS)
    assert found.steps > ROUNDS * STEPS


Breakage = list[tuple[type[Any], str, Any]]


def touch_without_outdating(self: Memo, keys: Any) -> set[str]:
    self.touched.update(keys)
    return set(keys)


BREAKAGES: dict[str, Breakage] = {
    "values of old transactions are kept": [(OrmCache, "_began", lambda *_: math.inf)],
    "names are taken for customers": [
        (Identities, "schema", lambda self, connect, name, known: name),
        (Identities, "last_known", lambda self, name: name),
        (Identities, "is_unchanged", lambda *_: (True, True)),
    ],
    "commits outdate nothing": [
        (Generations, "renew", lambda *_: None),
        (Generations, "mark", lambda *_: None),
    ],
    "writers read what they read before": [(Memo, "touch", touch_without_outdating)],
    "rollbacks forget nothing": [(Memo, "undo", lambda self: None)],
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_storm_finds_a_broken_cache(
    new_town: NewTowns, plain_dsn: str, monkeypatch: Any, name: str
) -> None:
    for owner, attribute, replacement in BREAKAGES[name]:
        monkeypatch.setattr(owner, attribute, replacement)
    found = storm(new_town, plain_dsn)
    with pytest.raises(Astray):
        found.run(ROUNDS, STEPS)

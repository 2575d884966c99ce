"""A manager for the models of a test, in a schema of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from onegov_orm import SessionManager

_numbers = itertools.count(1)

#: Makes a manager for a base, whose current schema is new and has the base's tables.
NewTowns = Callable[..., SessionManager]


@pytest.fixture(scope="module")
def shared_dsn(newest: Any) -> Iterator[str]:
    """The URL of a database for all tests of a module that have schemas of their own."""
    name = newest.create()
    yield newest.server.dsn(name, tcp=False)
    newest.drop(name)


@pytest.fixture
def new_town(shared_dsn: str, new_manager: Callable[..., SessionManager]) -> NewTowns:
    """Make managers: ``new_town(Base)`` has a current schema that no other test uses."""

    def make(base: Any, *, dsn: str = shared_dsn, **options: Any) -> SessionManager:
        manager = new_manager(dsn, base, **options)
        manager.set_current_schema(f"towns-{next(_numbers)}")
        return manager

    return make

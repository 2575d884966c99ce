"""A manager for each test in a schema of its own, and somebody who listens to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from onegov_orm import SessionManager
from tests.models import Base

_numbers = itertools.count(1)


class Listener:
    """Writes down what the signals of a manager say."""

    def __init__(self, mgr: SessionManager, *names: str) -> None:
        #: What each signal said: kind, schema and object.
        self.told: list[tuple[str, str, Any]] = []
        #: What was committed: schema and change set.
        self.commits: list[tuple[str, Any]] = []
        for name in names or ("on_insert", "on_update", "on_delete", "on_commit"):
            getattr(mgr, name).connect(getattr(self, name), weak=False)

    def on_insert(self, schema: str, obj: Any) -> None:
        self.told.append(("insert", schema, obj))

    def on_update(self, schema: str, obj: Any) -> None:
        self.told.append(("update", schema, obj))

    def on_delete(self, schema: str, session: Any, obj: Any) -> None:
        self.told.append(("delete", schema, obj))

    def on_commit(self, schema: str, changes: Any) -> None:
        self.commits.append((schema, changes))

    def kinds(self) -> list[str]:
        """Return the kinds of what was told, and forget it."""
        kinds = [kind for kind, _schema, _obj in self.told]
        self.told.clear()
        return kinds

    def net(self, attribute: str = "owner") -> list[tuple[str, Any]]:
        """Return the only commit's changes: kind and an attribute of each object."""
        [(_schema, changes)] = self.commits
        return [(change.kind.value, getattr(change.obj, attribute)) for change in changes]


@pytest.fixture(scope="module")
def shared_dsn(newest: Any) -> Iterator[str]:
    """The URL of a database for all tests of a module that have schemas of their own."""
    name = newest.create()
    yield newest.server.dsn(name, tcp=False)
    newest.drop(name)


@pytest.fixture
def new_name() -> Callable[[], str]:
    """Return a name that no other test uses."""
    return lambda: f"towns-{next(_numbers)}"


@pytest.fixture
def mgr(
    shared_dsn: str, new_manager: Callable[..., SessionManager], new_name: Callable[[], str]
) -> SessionManager:
    """A manager whose current schema is new."""
    manager = new_manager(shared_dsn, Base)
    manager.set_current_schema(new_name())
    return manager


@pytest.fixture
def plain(
    shared_dsn: str, new_manager: Callable[..., SessionManager], new_name: Callable[[], str]
) -> SessionManager:
    """A manager whose sessions commit and roll back by themselves."""
    manager = new_manager(shared_dsn, Base, transaction_manager=None)
    manager.set_current_schema(new_name())
    return manager


@pytest.fixture
def listen() -> Callable[..., Listener]:
    """Listen to all change signals of a manager, or to those that are named."""
    return Listener

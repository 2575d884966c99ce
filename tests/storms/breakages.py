"""Managers that are broken on purpose, each by a mistake that is easily made.

A storm that does not notice them would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from onegov_orm import _identity, _prelude, _session, _sql, context
from onegov_orm._connection import SchemaState
from tests.storms.customers import (
    ForeignRow,
    StateTravelled,
    StormFailure,
    UnexpectedError,
    WrongPath,
)
from tests.storms.storm import WEATHERS, Weather

Break = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Breakage:
    """A mistake, and how a storm may notice it."""

    run: Break
    noticed_as: tuple[type[StormFailure], ...]
    needs_threads: bool

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

    @property
    def weathers(self) -> list[Weather]:
        """The storms in which it can be noticed."""
        return [found for found in WEATHERS if found.workers > 1 or not self.needs_threads]


BREAKAGES: Final[list[Breakage]] = []


def breakage(
    *noticed_as: type[StormFailure], needs_threads: bool = False
) -> Callable[[Break], Break]:
    """Make a function one of the mistakes."""

    def register(run: Break) -> Break:
        BREAKAGES.append(Breakage(run, noticed_as, needs_threads))
        return run

    return register


@breakage(ForeignRow, WrongPath, StateTravelled)
def path_outlives_its_transaction(patch: pytest.MonkeyPatch) -> None:
    """A session-level SET in the place of SET LOCAL, and no reset at the end."""
    lasting = property(lambda prelude: (_sql.set_search_path(prelude.search_path),))
    patch.setattr(_prelude.Prelude, "opening", lasting)
    patch.setattr(SchemaState, "cleaning", lambda state: "")


@breakage(ForeignRow, WrongPath, StateTravelled, UnexpectedError)
def path_is_set_once_per_connection(patch: pytest.MonkeyPatch) -> None:
    known: set[int] = set()

    def opening(state: Any) -> Sequence[str]:
        if state.prelude is None or id(state) in known:
            return ["BEGIN"]
        known.add(id(state))
        return ["BEGIN", _sql.set_search_path(state.prelude.search_path)]

    patch.setattr(SchemaState, "_opening", opening)
    patch.setattr(SchemaState, "_correction", lambda state: ())
    patch.setattr(SchemaState, "cleaning", lambda state: "")


@breakage(ForeignRow, StateTravelled)
def connection_is_not_cleansed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SchemaState, "_admission", lambda state: [])
    patch.setattr(SchemaState, "cleaning", lambda state: _sql.RESET_SEARCH_PATH)


@breakage(ForeignRow, StateTravelled)
def settings_are_not_discarded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SchemaState, "cleaning", lambda state: _sql.RESET_SEARCH_PATH)


@breakage(ForeignRow, WrongPath, needs_threads=True)
def current_schema_is_global(patch: pytest.MonkeyPatch) -> None:
    current: list[Any] = [None]
    schema = property(lambda _: current[0], lambda _, value: current.__setitem__(0, value))
    patch.setattr(context.Current, "schema", schema)
    patch.setattr(context.Current, "require_schema", lambda _: current[0])


@breakage(ForeignRow, WrongPath)
def moved_path_is_not_noticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SchemaState, "_correction", lambda state: ())


@breakage(ForeignRow, UnexpectedError)
def objects_know_no_schema(patch: pytest.MonkeyPatch) -> None:
    for module in (_identity, _session):
        for name in ("refuse_foreign", "refuse_foreign_graph"):
            patch.setattr(module, name, lambda session, found: None)


@breakage(WrongPath, UnexpectedError)
def transactions_are_counted_by_client(patch: pytest.MonkeyPatch) -> None:
    """Nobody asks the server whether a text has ended the transaction.

    The neutral path then keeps statements from finding any table at all.
    """
    due, was_cleaned = SchemaState.due, SchemaState.was_cleaned
    began: set[int] = set()

    def counting_due(state: SchemaState, statement: str) -> Sequence[str]:
        if id(state) in began and state.is_idle:
            return ()
        began.add(id(state))
        return due(state, statement)

    def counting_was_cleaned(state: SchemaState) -> None:
        began.discard(id(state))
        was_cleaned(state)

    patch.setattr(SchemaState, "due", counting_due)
    patch.setattr(SchemaState, "was_cleaned", counting_was_cleaned)


@breakage(WrongPath, StateTravelled)
def schema_stays_on_pooled_connection(patch: pytest.MonkeyPatch) -> None:
    was_cleaned = SchemaState.was_cleaned

    def keep(state: SchemaState) -> None:
        prelude = state.prelude
        was_cleaned(state)
        state.prelude = prelude

    def keep_or_bind(state: SchemaState, prelude: Any) -> None:
        state.prelude = prelude or state.prelude

    patch.setattr(SchemaState, "was_cleaned", keep)
    patch.setattr(SchemaState, "bind", keep_or_bind)

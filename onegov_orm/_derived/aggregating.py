"""Brings aggregated columns up to date in the flush that changes what they aggregate."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import Column
from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.orm.attributes import instance_state

from onegov_orm._derived.aggregate import MARK, Aggregate, attributes_for, link_attributes
from onegov_orm._derived.aggregate_statements import Key
from onegov_orm._derived.correcting import Correction, Owners, Touched, load_owners, owners_of
from onegov_orm._derived.declarations import Declarations
from onegov_orm._derived.walking import UNKNOWN, before, has_changed
from onegov_orm._flush_hooks import Flush, FlushHook
from onegov_orm.errors import ConfigurationError

# Aggregates of aggregates may be as many levels deep; beyond that they go in a circle.
_MOST_ROUNDS: Final = 1000

#: The attributes of objects that were set inside of a savepoint.
_SetAttributes: TypeAlias = weakref.WeakKeyDictionary[InstanceState[Any], set[str]]


@dataclass(frozen=True, slots=True)
class Touch:
    """How the objects of a class change an aggregate."""

    aggregate: Aggregate
    #: The level where the objects are; None if they are between two levels.
    own_level: int | None
    #: The attributes that matter.
    watched: tuple[str, ...]
    #: The attributes that hold the primary key of an object one level above, and its level.
    link: tuple[str, ...] | None = None
    link_level: int = 0

    def has_to_be_asked(self, state: InstanceState[Any]) -> bool:
        """Tell whether only the database knows to whom the object belongs."""
        if self.link is None:
            return bool(self.own_level)
        known = [before(state.obj(), key) for key in self.link]
        return self.own_level is not None and UNKNOWN in known

    def keys(self, state: InstanceState[Any], is_deleted: bool) -> Iterator[Key]:
        """Yield the primary keys, on its level, of what an object touches that was flushed."""
        if self.link is not None:
            for key in (
                tuple(before(state.obj(), name) for name in self.link),
                tuple(state.dict.get(name) for name in self.link),
            ):
                if not any(value is None or value is UNKNOWN for value in key):
                    yield key
        elif not is_deleted:
            yield tuple(state.mapper.primary_key_from_instance(state.obj()))

    @property
    def level(self) -> int:
        """The level whose primary keys are known."""
        return self.link_level if self.link is not None else self.own_level or 0


class Aggregates(Declarations[Aggregate, Touch], FlushHook):
    """All aggregated columns of the process."""

    def __init__(self) -> None:
        super().__init__()
        self._set: weakref.WeakKeyDictionary[Session, _SetAttributes]
        self._set = weakref.WeakKeyDictionary()

    def kept_from(self, mapper: Mapper[Any]) -> Iterator[str]:
        """Yield the aggregates that depend on the rows of a class."""
        for each in mapper.self_and_descendants:
            for touch in self.concerning(each):
                yield touch.aggregate.name

    # -- in a flush

    def before_flush(self, session: Session, flush: Flush) -> None:
        """Note to whom belongs what is going to be changed, where nobody knows afterwards."""
        touched: Touched = {}
        deleted = session.deleted
        for obj in (*session.dirty, *deleted):
            state = instance_state(obj)
            for touch in self.concerning(state.mapper):
                if (obj in deleted or has_changed(obj, touch.watched)) and (
                    touch.has_to_be_asked(state)
                ):
                    level = touch.own_level or 0
                    touched.setdefault((touch.aggregate, level), {})[_identity(state)] = None
        flush.notes[self] = owners_of(session, touched)

    def after_flush(self, session: Session, flush: Flush, flush_context: Any) -> None:
        """Correct the aggregates of what was written.

        Raises `ConfigurationError` for aggregates that depend on each other in a circle.
        """
        owners: Owners = flush.notes.pop(self, {})
        _merge(owners, owners_of(session, self._touched(flush_context)))
        correction = Correction(session, flush_context)
        for _ in range(_MOST_ROUNDS):
            if not owners:
                break
            touched: Touched = {}
            for aggregate, keys in correction.correct(owners).items():
                for place in self._dependents(aggregate):
                    touched.setdefault(place, {}).update(dict.fromkeys(keys))
            owners = owners_of(session, touched)
        else:
            names = ", ".join(sorted(aggregate.name for aggregate in owners))
            raise ConfigurationError(f"these aggregates go in a circle without end: {names}")
        flush.notes[self] = correction.changed
        if session.in_nested_transaction():
            kept = self._set.setdefault(session, weakref.WeakKeyDictionary())
            for state, name in correction.set:
                kept.setdefault(state, set()).add(name)

    def finish(self, session: Session, flush: Flush) -> list[Any]:
        """Return the owners whose aggregates were changed, if anybody wants to hear of them."""
        changed = flush.notes.pop(self, None)
        return load_owners(session, changed) if changed and flush.is_heard else []

    def after_rollback(self, session: Session) -> None:
        """Have attributes read again that were set inside of a savepoint."""
        for state, names in self._set.pop(session, {}).items():
            if state.session is session and state.persistent:
                session.expire(state.obj(), names)

    def _touched(self, flush_context: Any) -> Touched:
        touched: Touched = {}
        for state, (is_deleted, is_listed_only) in list(flush_context.states.items()):
            for touch in () if is_listed_only else self.concerning(state.mapper):
                if is_deleted or state.key is None or has_changed(state.obj(), touch.watched):
                    for key in touch.keys(state, is_deleted):
                        touched.setdefault((touch.aggregate, touch.level), {})[key] = None
        return touched

    def _dependents(self, aggregate: Aggregate) -> set[tuple[Aggregate, int]]:
        """Return the aggregates of an aggregate, with the level that its owners are on."""
        return {
            (touch.aggregate, touch.own_level)
            for mapper in aggregate.mapper.self_and_descendants
            for touch in self.concerning(mapper)
            if touch.own_level is not None
            and aggregate.key in touch.watched
            and not (touch.aggregate is aggregate and touch.own_level == 0)
        }

    # -- what classes declare

    def declares(self, mapper: Mapper[Any]) -> bool:
        """Tell whether a class has an aggregated column that it did not inherit."""
        return any(True for _key in _own_keys(mapper))

    def declared(self, mapper: Mapper[Any]) -> Iterable[Aggregate]:
        """Return the aggregates of a class."""
        return [Aggregate(mapper, key) for key in _own_keys(mapper)]

    def relate(self, declaration: Aggregate, mapper: Mapper[Any]) -> Iterable[Touch]:
        """Return how objects of the class change the aggregate."""
        watched = declaration.watched(mapper)
        for level, expected in enumerate(declaration.levels):
            if mapper.isa(expected):
                link = link_attributes(declaration.steps[level - 1]) if level else None
                yield Touch(declaration, level, watched, link, level - 1)
        for level, step in enumerate(declaration.steps):
            # The table between two levels may have a class, too.
            if step.secondary is not None and step.secondary in mapper.tables:
                link = attributes_for(step.synchronize_pairs, step.parent, mapper)
                if link is not None:
                    yield Touch(declaration, None, watched, link, level)


aggregates: Final = Aggregates()


def _own_keys(mapper: Mapper[Any]) -> Iterator[str]:
    inherited = mapper.inherits.column_attrs if mapper.inherits is not None else ()
    known = {id(column) for attribute in inherited for column in attribute.columns}
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if isinstance(column, Column) and id(column) not in known and MARK in column.info:
            yield attribute.key


def _identity(state: InstanceState[Any]) -> Key:
    return tuple(state.key[1]) if state.key is not None else ()


def _merge(owners: Owners, others: Owners) -> None:
    for aggregate, keys in others.items():
        owners.setdefault(aggregate, {}).update(keys)

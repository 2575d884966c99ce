"""The statements of one flush that correct aggregates, and what loaded objects get of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from itertools import islice
from typing import Any, Final, TypeAlias

from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.orm.attributes import instance_state, set_committed_value

from onegov_orm._derived.aggregate import Aggregate
from onegov_orm._derived.aggregate_statements import (
    Key,
    Update,
    owners_through,
    owners_with,
    parameters,
)

#: How many owners are corrected with one statement.
_BATCH_SIZE: Final = 1000

#: The primary keys of objects, by aggregate and level.
Touched: TypeAlias = dict[tuple[Aggregate, int], dict[Key, None]]

#: The primary keys of those that have the column.
Owners: TypeAlias = dict[Aggregate, dict[Key, None]]


def owners_of(session: Session, touched: Touched) -> Owners:
    """Return who has the objects, as the database knows it at this moment."""
    owners: Owners = {}
    for (aggregate, level), keys in touched.items():
        found = owners.setdefault(aggregate, {})
        if level == 0:
            found.update(keys)
            continue
        statement = aggregate.keep(level, partial(owners_through, aggregate, level))
        for some in _batches(keys):
            rows = _execute(session, aggregate.mapper, statement, parameters(some))
            found.update((tuple(row), None) for row in rows)
    return owners


class Correction:
    """What one flush corrects."""

    def __init__(self, session: Session, flush_context: Any) -> None:
        self._session = session
        self._states: dict[InstanceState[Any], tuple[bool, bool]] = flush_context.states
        self._isolation_level = _isolation_level(session)
        #: The owners that nothing else in this flush has changed: mappers and primary keys, by
        #: identity.
        self.changed: dict[Any, tuple[Mapper[Any], Key]] = {}
        #: The attributes that were set.
        self.set: list[tuple[InstanceState[Any], str]] = []

    def correct(self, owners: Owners) -> dict[Aggregate, list[Key]]:
        """Correct the aggregates; return the primary keys of the owners that this changed."""
        changed: dict[Aggregate, list[Key]] = {}
        for group in _by_table(owners):
            kept = group[0].keep(tuple(each.key for each in group), partial(Update, group))
            keys = {key: None for each in group for key in owners[each]}
            rows = [row for some in _batches(keys) for row in self._run(kept, some)]
            if rows:
                changed.update(dict.fromkeys(group, rows))
        return changed

    def _run(self, update: Update, keys: list[Key]) -> list[Key]:
        if self._isolation_level == "READ COMMITTED":
            # What others commit while this waits has to be seen.
            _execute(self._session, update.mapper, update.lock, parameters(keys))
        # Two that change what an owner has collide only if both write the owner. With
        # SERIALIZABLE the server finds out that they read what the other one changed.
        is_forced = self._isolation_level == "REPEATABLE READ"
        values = parameters(keys, is_forced)
        width = len(update.mapper.primary_key)
        changed = []
        for row in _execute(self._session, update.mapper, update.statement, values):
            key = tuple(row[:width])
            self._take(update, key, row[width:])
            changed.append(key)
        return changed

    def _take(self, update: Update, key: Key, values: Iterable[Any]) -> None:
        """Give a loaded object the values that the database has."""
        identity = update.mapper.identity_key_from_primary_key(key)
        obj = self._session.identity_map.get(identity)
        obj = self._inserted.get(identity) if obj is None else obj
        state = None if obj is None else instance_state(obj)
        if state is not None:
            for name, value in zip(update.attributes, values, strict=True):
                set_committed_value(obj, name, value)
                self.set.append((state, name))
        if state is None or not self._is_announced(state):
            self.changed[identity] = (update.mapper, key)

    def _is_announced(self, state: InstanceState[Any]) -> bool:
        """Tell whether the flush itself is going to announce the object."""
        is_listed_only = self._states.get(state, (False, True))[1]
        return not is_listed_only and (state.key is None or self._session.is_modified(state.obj()))

    @cached_property
    def _inserted(self) -> dict[Any, Any]:
        """The new objects, which the session does not know by their keys yet."""
        new = [state.obj() for state in self._states if state.key is None]
        return {instance_state(obj).mapper.identity_key_from_instance(obj): obj for obj in new}


def load_owners(session: Session, changed: dict[Any, tuple[Mapper[Any], Key]]) -> list[Any]:
    """Return the objects, those that have to be loaded too."""
    missing: dict[Mapper[Any], list[Key]] = {}
    for identity, (mapper, key) in changed.items():
        if identity not in session.identity_map:
            missing.setdefault(mapper, []).append(key)
    loaded: list[Any] = []
    for mapper, keys in missing.items():
        for some in _batches(keys):
            loaded += session.scalars(owners_with(mapper), parameters(some)).unique()
    found = (session.identity_map.get(identity) for identity in changed)
    return [obj for obj in found if obj is not None]


def _execute(session: Session, mapper: Mapper[Any], statement: Any, values: Any) -> Any:
    return session.execute(statement, values, bind_arguments={"mapper": mapper}).all()


def _by_table(owners: Owners) -> Iterator[list[Aggregate]]:
    """Yield the aggregates that one statement can correct."""
    groups: dict[Any, list[Aggregate]] = {}
    for each in sorted(owners, key=lambda aggregate: aggregate.name):
        place = (each.mapper, each.column.table, each.is_circular)
        groups.setdefault(place, []).append(each)
    yield from groups.values()


def _batches(keys: Iterable[Key]) -> Iterator[list[Key]]:
    remaining = iter(keys)
    while batch := list(islice(remaining, _BATCH_SIZE)):
        yield batch


def _isolation_level(session: Session) -> str:
    """Return the isolation level of the session's manager."""
    reference = getattr(session, "manager", None)
    manager = reference() if reference is not None else None
    return getattr(manager, "isolation_level", "SERIALIZABLE")

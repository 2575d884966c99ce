"""The net changes of one transaction, as `on_commit` announces them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias

#: SQLAlchemy's identity key: class, primary key and identity token.
IdentityKey: TypeAlias = tuple[type[Any], tuple[Any, ...], Any]


class Kind(Enum):
    """What happened to an object."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened to one object."""

    kind: Kind
    key: IdentityKey
    obj: Any


def _empty() -> Mapping[IdentityKey, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What a committed transaction changed, each object once.

    The three mappings lead from identity keys to objects, in the order of the changes.
    An object that was inserted and deleted again is in none of them.
    """

    inserts: Mapping[IdentityKey, Any] = field(default_factory=_empty)
    updates: Mapping[IdentityKey, Any] = field(default_factory=_empty)
    deletes: Mapping[IdentityKey, Any] = field(default_factory=_empty)

    def __bool__(self) -> bool:
        return bool(self.inserts or self.updates or self.deletes)

    def __len__(self) -> int:
        return len(self.inserts) + len(self.updates) + len(self.deletes)

    def __iter__(self) -> Iterator[Change]:
        for kind, changes in (
            (Kind.INSERT, self.inserts),
            (Kind.UPDATE, self.updates),
            (Kind.DELETE, self.deletes),
        ):
            for key, obj in changes.items():
                yield Change(kind, key, obj)


class ChangeLog:
    """What happened so far in a transaction, with savepoints that can be rolled back."""

    def __init__(self) -> None:
        self._changes: list[Change] = []
        # Weak, so that the savepoints that were released are not kept to the end.
        self._savepoints: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def add(self, change: Change) -> None:
        """Append a change."""
        self._changes.append(change)

    def objects(self) -> list[Any]:
        """Return the objects that were inserted or updated, as often as they were."""
        return [change.obj for change in self._changes if change.kind is not Kind.DELETE]

    def begin_savepoint(self, savepoint: object) -> None:
        """Remember where a savepoint began."""
        self._savepoints[savepoint] = len(self._changes)

    def roll_back_savepoint(self, savepoint: object) -> None:
        """Forget what happened since the savepoint began."""
        position = self._savepoints.pop(savepoint, None)
        if position is not None:
            del self._changes[position:]

    def net(self) -> ChangeSet:
        """Return what is left when the changes of each object are taken together."""
        net: dict[IdentityKey, Change] = {}
        for change in self._changes:
            before = net.get(change.key)
            kind = _merge(before.kind if before else None, change.kind)
            if kind is None:
                del net[change.key]
            else:
                net[change.key] = Change(kind, change.key, change.obj)
        return ChangeSet(*(_of_kind(net, kind) for kind in Kind))


def _merge(before: Kind | None, after: Kind) -> Kind | None:
    """Return the net kind of two changes of the same object, None for no change."""
    if before is None:
        return after
    if before is Kind.INSERT:
        return None if after is Kind.DELETE else Kind.INSERT
    if before is Kind.DELETE:
        return Kind.DELETE if after is Kind.DELETE else Kind.UPDATE
    return after if after is Kind.DELETE else Kind.UPDATE


def _of_kind(net: Mapping[IdentityKey, Change], kind: Kind) -> Mapping[IdentityKey, Any]:
    return MappingProxyType({key: c.obj for key, c in net.items() if c.kind is kind})

"""Dictionaries and lists that tell the object they belong to when something in them changes.

A container has one owner: the attribute of an object, or another container. What is put in a
second place is copied, just as both places have their own value once they are in the database.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, Final, SupportsIndex, TypeVar, overload

from onegov_orm.types._containers import Container, FirstChange, release

__all__ = ["TrackedDict", "TrackedList", "as_container", "copied", "tracked"]

T = TypeVar("T")

#: Values that can't change: to put the same there again is no change.
_CONSTANTS: Final = frozenset({str, int, bool, type(None)})
_MISSING: Final = object()


class TrackedDict(dict[str, Any], Container):
    """A dictionary that tells its owner about changes; ``copy()`` of it is a plain one."""

    __slots__ = ("__weakref__", "_owner")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owner = None
        for key, value in self.items():
            super().__setitem__(key, _adopted(value, self))

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __setitem__(self, key: str, value: Any) -> None:
        if self._put(key, value):
            self.changed()

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def __ior__(self, other: Any) -> TrackedDict:  # type: ignore[override,misc]
        self.update(other)
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Take over the items of another mapping; one change, if at all."""
        changes = [self._put(key, value) for key, value in dict(*args, **kwargs).items()]
        if any(changes):
            self.changed()

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, after it was put there if it was missing."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        """Take out the value of a key, which is nobody's then."""
        if key not in self:
            return super().pop(key, *default)
        value = super().pop(key)
        release(value)
        self.changed()
        return value

    def popitem(self) -> tuple[str, Any]:
        """Take out the item that was put in last."""
        key, value = super().popitem()
        release(value)
        self.changed()
        return key, value

    def clear(self) -> None:
        """Take out everything."""
        if self:
            for value in self.values():
                release(value)
            super().clear()
            self.changed()

    def _put(self, key: str, value: Any) -> bool:
        old = self.get(key, _MISSING)
        if _is_same(old, value):
            return False
        super().__setitem__(key, _adopted(value, self))
        release(old)
        return True


class TrackedList(list[Any], Container):
    """A list that tells its owner about changes; slices and ``copy()`` of it are plain ones."""

    __slots__ = ("__weakref__", "_owner")

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__(values)
        self._owner = None
        for index, value in enumerate(self):
            super().__setitem__(index, _adopted(value, self))

    def __reduce__(self) -> Any:
        return type(self), (list(self),)

    def __copy__(self) -> list[Any]:
        return self.copy()

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            self._replace(index, list(value))
            return
        old = self[index]
        if not _is_same(old, value):
            super().__setitem__(index, _adopted(value, self))
            release(old)
            self.changed()

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        removed = self[index] if isinstance(index, slice) else [self[index]]
        super().__delitem__(index)
        for value in removed:
            release(value)
        if removed:
            self.changed()

    def __iadd__(self, values: Iterable[Any]) -> TrackedList:  # type: ignore[misc]
        self.extend(values)
        return self

    def __imul__(self, times: SupportsIndex) -> TrackedList:
        count = operator.index(times)
        if count <= 0:
            self.clear()
        else:
            self.extend(list(self) * (count - 1))
        return self

    def append(self, value: Any) -> None:
        """Add a value at the end."""
        super().append(_adopted(value, self))
        self.changed()

    def extend(self, values: Iterable[Any]) -> None:
        """Add values at the end; one change, if at all."""
        added = list(values)
        if added:
            super().extend([_adopted(value, self) for value in added])
            self.changed()

    def insert(self, index: SupportsIndex, value: Any) -> None:
        """Add a value in front of the one with this index."""
        super().insert(index, _adopted(value, self))
        self.changed()

    def pop(self, index: SupportsIndex = -1) -> Any:
        """Take out a value, which is nobody's then."""
        value = super().pop(index)
        release(value)
        self.changed()
        return value

    def remove(self, value: Any) -> None:
        """Take out the first value that is equal."""
        del self[self.index(value)]

    def clear(self) -> None:
        """Take out everything."""
        del self[:]

    def reverse(self) -> None:
        """Turn the order around."""
        super().reverse()
        self.changed()

    def sort(self, **options: Any) -> None:
        """Put the values in order."""
        try:
            super().sort(**options)
        finally:
            # An error of a key or comparison leaves the values in some order.
            self.changed()

    def _replace(self, part: slice, values: list[Any]) -> None:
        removed = self[part]
        if len(removed) != len(values) and part.step not in (None, 1):
            super().__setitem__(part, values)  # which raises an error
        # They may be among the values, as in places[:] = sorted(places, key=...).
        for value in removed:
            release(value)
        super().__setitem__(part, [_adopted(value, self) for value in values])
        if removed or values:
            self.changed()


@overload
def tracked(
    value: dict[str, Any], first_change: Callable[[TrackedDict], None] | None = None
) -> TrackedDict: ...
@overload
def tracked(
    value: list[Any], first_change: Callable[[TrackedList], None] | None = None
) -> TrackedList: ...
@overload
def tracked(value: T, first_change: Callable[[Any], None] | None = None) -> T: ...
def tracked(value: Any, first_change: Callable[[Any], None] | None = None) -> Any:
    """Return a copy that tracks changes; what is neither list nor dictionary is returned as is.

    ``first_change`` is called with it when something in it changes, and once only. It is nobody's
    until it is put somewhere.
    """
    container = as_container(value)
    if container is None:
        return value
    if container is value:
        container = copied(container)
    container._owner = FirstChange(first_change) if first_change else None
    return container


def as_container(value: object) -> TrackedDict | TrackedList | None:
    """Return the value if it tracks changes, a copy if it should, and None for what can't."""
    if isinstance(value, (TrackedDict, TrackedList)):
        return value
    if isinstance(value, dict):
        return TrackedDict(value)
    # Tuples are lists once they were written; those of other classes may have a serializer.
    if isinstance(value, list) or value.__class__ is tuple:
        return TrackedList(value)
    return None


def copied(container: TrackedDict | TrackedList) -> TrackedDict | TrackedList:
    """Return a container with the same values, and copies of those that track changes."""
    return type(container)(container)


def _adopted(value: Any, parent: TrackedDict | TrackedList) -> Any:
    """Return what a container keeps of a value: a part of its own, or the value itself."""
    container = as_container(value)
    if container is None:
        return value
    if container is value and (container.is_owned() or parent.is_within(container)):
        container = copied(container)
    container._owner = parent
    return container


def _is_same(old: object, new: object) -> bool:
    if isinstance(new, Container):
        return old is new
    return new.__class__ in _CONSTANTS and old.__class__ is new.__class__ and old == new

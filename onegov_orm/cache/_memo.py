"""What one transaction knows of cached values, and what it changed."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any, Final

from onegov_orm.cache._generations import new_mark

#: Stands for a value that is not there.
MISSING: Final = object()


class Memo:
    """Belongs to one transaction or unit of work, and ends with it."""

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[Any, Collection[str]]] = {}
        #: What belongs to the unit of work, also when it commits in the middle.
        self._objects: dict[Hashable, Any] = {}
        #: The keys of the generations that the transaction has outdated.
        self.touched: set[str] = set()
        #: What the transaction's changes are marked with.
        self.mark = new_mark()
        #: The schemas' numbers on the server, by their names.
        self.identities: dict[str, str] = {}

    def get(self, key: Hashable) -> Any:
        """Return the value, or `MISSING`."""
        return self._values.get(key, (MISSING, ()))[0]

    def put(self, key: Hashable, value: Any, depends_on: Collection[str]) -> Any:
        """Keep the value and return it."""
        self._values[key] = value, depends_on
        return value

    def get_object(self, key: Hashable) -> Any:
        """Return what is kept for the unit of work, or `MISSING`."""
        return self._objects.get(key, MISSING)

    def put_object(self, key: Hashable, value: Any) -> Any:
        """Keep it for the unit of work, and return it."""
        self._objects[key] = value
        return value

    def touch(self, keys: Collection[str]) -> set[str]:
        """Note what is outdated, and return what was not before."""
        changed = set(keys)
        outdated = [
            key for key, (_value, needs) in self._values.items() if not changed.isdisjoint(needs)
        ]
        for key in outdated:
            del self._values[key]
        new = changed - self.touched
        self.touched |= new
        return new

    def end(self) -> None:
        """Forget what was read in a transaction that is over."""
        self._values.clear()
        self.identities.clear()

    def undo(self) -> None:
        """Forget what may be made of what was rolled back."""
        self._values.clear()
        self._objects.clear()

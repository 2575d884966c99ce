"""What one transaction knows of cached values, and what it changed."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any, Final

#: Stands for a value that is not there.
MISSING: Final = object()


class Memo:
    """Belongs to one transaction or unit of work, and ends with it."""

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[Any, Collection[str]]] = {}
        #: The keys of the generations that the transaction has outdated.
        self.touched: set[str] = set()
        #: The schemas' numbers on the server, by their names.
        self.identities: dict[str, int] = {}

    def get(self, key: Hashable) -> Any:
        """Return the value, or `MISSING`."""
        return self._values.get(key, (MISSING, ()))[0]

    def put(self, key: Hashable, value: Any, depends_on: Collection[str] = ()) -> Any:
        """Keep the value and return it."""
        self._values[key] = value, depends_on
        return value

    def touch(self, keys: Collection[str]) -> set[str]:
        """Note what is outdated, and return what was not before."""
        new = set(keys) - self.touched
        if new:
            self.touched |= new
            outdated = [
                key for key, (_value, needs) in self._values.items() if not new.isdisjoint(needs)
            ]
            for key in outdated:
                del self._values[key]
        return new

    def forget(self) -> None:
        """Forget the values, which may be made from what was rolled back."""
        self._values.clear()

"""Lists and dictionaries that are read as a default, and stored once somebody changes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from sqlalchemy import inspect

from onegov_orm.types.tracking import tracked


class PendingDefaults:
    """The defaults of a property that objects gave out, and that are not stored.

    Who reads the property twice gets the same one, as long as it is held: otherwise two of them
    could be changed, and one change would be lost.
    """

    def __init__(self) -> None:
        self._given: WeakKeyDictionary[Any, ReferenceType[Any]] = WeakKeyDictionary()

    def give(self, instance: Any, default: Any, store: Callable[[Any, Any], None]) -> Any:
        """Return a default that is stored with its first change; it keeps the object alive."""
        holder = inspect(instance, raiseerr=False) or instance
        reference = self._given.get(holder)
        container = None if reference is None else reference()
        if container is None:

            def changed(container: Any) -> None:
                self._given.pop(holder, None)
                store(instance, container)

            container = tracked(default, changed)
            self._given[holder] = ref(container)
        return container

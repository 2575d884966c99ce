"""Attributes whose dictionaries and lists mark their object as changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import InstanceState
from sqlalchemy.orm.attributes import flag_modified

from onegov_orm.errors import StaleValue
from onegov_orm.types._containers import Container, Owner
from onegov_orm.types._mapped_columns import for_columns_of
from onegov_orm.types.tracking import as_container, copied

__all__ = ["track"]

_PICKLED = "onegov_orm.tracked"


class AttributeOwner:
    """The attribute of an object; the object is free to go."""

    __slots__ = ("_key", "_state")

    def __init__(self, state: InstanceState[Any], key: str) -> None:
        self._state = state
        self._key = key

    def changed(self, container: Container) -> None:
        """Mark the attribute; raises `StaleValue` if it has another value by now."""
        obj = self._state.obj()
        if obj is None:
            return
        if not self.holds(container):
            raise StaleValue(obj, self._key)
        flag_modified(obj, self._key)

    def holds(self, container: Container) -> bool:
        """Tell whether the attribute still has this value."""
        return self._state.dict.get(self._key) is container

    def is_of(self, state: InstanceState[Any], key: str) -> bool:
        """Tell whether this is the attribute of an object."""
        return self._state is state and self._key == key


class TrackingEvents:
    """Listens to what puts values into the attributes of a class, and takes them away."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = frozenset(keys)

    def attach(self, class_: type[Any]) -> None:
        """Listen to a class, and to those derived from it."""
        for name, listener in (
            ("load", self.load),
            ("refresh", self.refresh),
            ("refresh_flush", self.refresh),
            # Only SQLAlchemy's own mutable types have this event for merge(load=False).
            ("_sa_event_merge_wo_load", self.load),
            ("pickle", self.pickle),
            ("unpickle", self.unpickle),
        ):
            event.listen(class_, name, listener, raw=True, propagate=True)
        for key in self._keys:
            attribute = getattr(class_, key)
            event.listen(attribute, "set", self.set, raw=True, retval=True, propagate=True)
            event.listen(attribute, "remove", self.remove, raw=True, propagate=True)

    def load(self, state: InstanceState[Any], context: object) -> None:
        """Take what came from the database."""
        self._own(state, self._keys)

    def refresh(
        self, state: InstanceState[Any], context: object, names: Iterable[str] | None
    ) -> None:
        """Take what came again, or was made up by a default."""
        self._own(state, self._keys.intersection(names) if names else self._keys)

    def set(self, state: InstanceState[Any], value: Any, old: Any, initiator: Any) -> Any:
        """Take what somebody assigns, and let go of what was there before."""
        _let_go(old, state, initiator.key)
        return _owned(value, state, initiator.key)

    def remove(self, state: InstanceState[Any], value: Any, initiator: Any) -> None:
        """Let go of what is deleted."""
        _let_go(value, state, initiator.key)

    def pickle(self, state: InstanceState[Any], pickled: dict[str, Any]) -> None:
        """Write the containers down: when the state is read again, the object has none yet."""
        found = ((key, state.dict.get(key)) for key in self._keys)
        containers = {key: value for key, value in found if isinstance(value, Container)}
        pickled.setdefault(_PICKLED, {}).update(containers)

    def unpickle(self, state: InstanceState[Any], pickled: dict[str, Any]) -> None:
        """Tell the containers whose they are."""
        for key, value in pickled.get(_PICKLED, {}).items():
            value._owner = AttributeOwner(state, key)

    def _own(self, state: InstanceState[Any], keys: frozenset[str]) -> None:
        values = state.dict
        for key in keys:
            value = values.get(key)
            if isinstance(value, Container) and value._owner is None:
                value._owner = AttributeOwner(state, key)
            elif value is not None:
                values[key] = _owned(value, state, key)


def track(sql_type: type[Any]) -> None:
    """Track the changes of all attributes with columns of a type, in all mappings to come."""
    for_columns_of(sql_type, lambda class_, keys: TrackingEvents(keys).attach(class_))


def _owned(value: Any, state: InstanceState[Any], key: str) -> Any:
    """Return what an attribute keeps of a value: a container of its own, or the value itself."""
    container = as_container(value)
    if container is None:
        return value
    owner = container._owner
    if isinstance(owner, AttributeOwner) and owner.is_of(state, key):
        return container
    if container is value and container.is_owned():
        container = copied(container)
    container._owner = AttributeOwner(state, key)
    return container


def _let_go(value: object, state: InstanceState[Any], key: str) -> None:
    if isinstance(value, Container):
        owner: Owner | Any = value._owner
        if isinstance(owner, AttributeOwner) and owner.is_of(state, key):
            value._owner = None

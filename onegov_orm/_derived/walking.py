"""Where paths lead once a flush is over, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import PassiveFlag, Session, object_session
from sqlalchemy.orm.attributes import History, instance_state

from onegov_orm._derived.paths import Path, Step

# What is known without asking the database, what waits for a collection to be loaded included.
_KNOWN: Final = PassiveFlag.PASSIVE_NO_INITIALIZE | PassiveFlag.INCLUDE_PENDING_MUTATIONS

#: What stands for a value that only the database knows.
UNKNOWN: Final = object()


class View:
    """The objects of a session as they will be linked after the flush.

    Objects that were linked by their foreign keys alone are in no loaded collection: who asks
    for the owners of each has them noted.
    """

    def __init__(self, session: Session) -> None:
        self.deleted = session.deleted
        #: The collections that are not what the database will have: owners and names.
        self.stale: list[tuple[Any, str]] = []
        self._arrivals: dict[tuple[int, str], list[Any]] = {}

    def is_deleted(self, obj: Any) -> bool:
        """Tell whether an object is going to be deleted, or was: collections still have it."""
        return obj in self.deleted or instance_state(obj).was_deleted

    def value_at(self, obj: Any, path: Path) -> Any:
        """Return what is at the end of a path: a list if a collection is on the way.

        Objects come once, in the order of the collections, and without those being deleted.
        """
        found: list[Any] = [obj]
        for step in path:
            if step.is_relationship:
                found = self._objects(each for owner in found for each in self._read(owner, step))
            else:
                found = [getattr(owner, step.key) for owner in found]
        if any(step.is_collection for step in path):
            return found
        return found[0] if found else None

    def owners_of(self, obj: Any, path: Path) -> list[Any]:
        """Return the objects from which a path leads to this one, or did before the flush.

        What moved on its own further up the path is not followed to where it was before.
        """
        if not path:
            return [obj]
        self._note_move(obj, path[-1])
        found = self._objects((*self._backwards(obj, path[-1]), *_formerly(obj, path[-1])))
        for step in reversed(path[:-1]):
            found = self._objects(owner for each in found for owner in self._backwards(each, step))
        return found

    def _note_move(self, obj: Any, step: Step) -> None:
        """Note an object that its foreign key moves into what a step leads to."""
        link = step.link
        if link is None or obj in self.deleted or not _is_moved_by_key(obj, link):
            return
        owner = related(obj, link)
        if owner is not None:
            self._arrivals.setdefault((id(owner), step.key), []).append(obj)
        owners = (owner, *_formerly(obj, step))
        self.stale += [(each, step.key) for each in owners if each is not None]

    def _read(self, owner: Any, step: Step) -> Iterator[Any]:
        """Yield what one relationship leads to."""
        link = step.link
        for each in linked(owner, step):
            if link is None or not has_changed(each, link.watched) or related(each, link) is owner:
                yield each
            else:
                # It left without the collection being told.
                self.stale.append((owner, step.key))
        yield from self._arrivals.get((id(owner), step.key), ())

    def _backwards(self, obj: Any, step: Step) -> Iterable[Any]:
        return linked(obj, step.reverse) if step.reverse is not None else _ask(obj, step)

    def _objects(self, objects: Iterable[Any]) -> list[Any]:
        found = {id(each): each for each in objects if each is not None}
        return [each for each in found.values() if not self.is_deleted(each)]


def changes_of(obj: Any, key: str) -> History:
    """Return what is going to be changed in an attribute, as far as that is known."""
    return instance_state(obj).get_history(key, _KNOWN)


def has_changed(obj: Any, keys: Iterable[str]) -> bool:
    """Tell whether one of the attributes was changed since the last flush."""
    state = instance_state(obj)
    return any(state.get_history(key, _KNOWN).has_changes() for key in keys)


def before(obj: Any, key: str) -> Any:
    """Return the value that an attribute has in the database, if it is known."""
    history = changes_of(obj, key)
    state = instance_state(obj)
    if not history.has_changes():
        return state.dict.get(key, UNKNOWN)
    if history.deleted:
        return history.deleted[0]
    # What a new object has, it had not before.
    return None if state.key is None else UNKNOWN


def linked(obj: Any, step: Step) -> Iterable[Any]:
    """Return the objects that a relationship has."""
    if not step.is_collection:
        return (related(obj, step),)
    value = getattr(obj, step.key)
    return list(value.values() if isinstance(value, dict) else value)


def related(obj: Any, step: Step) -> Any:
    """Return the object that a relationship will lead to after the flush."""
    if _is_moved_by_key(obj, step):
        state = instance_state(obj)
        if not state.persistent or state.session is None:
            return _find(obj, step, [getattr(obj, key) for key in step.foreign_keys])
        # It leads to where the foreign key pointed when it was loaded.
        state.session.expire(obj, [step.key])
    return getattr(obj, step.key)


def _is_moved_by_key(obj: Any, step: Step) -> bool:
    return has_changed(obj, step.foreign_keys) and not has_changed(obj, (step.key,))


def _find(obj: Any, step: Step, identity: list[Any]) -> Any:
    """Return the object that a foreign key points to."""
    session = object_session(obj)
    if session is None or None in identity:
        return None
    target = instance_state(obj).mapper.relationships[step.key].mapper
    return session.get(target.class_, identity[0] if len(identity) == 1 else tuple(identity))


def _formerly(obj: Any, step: Step) -> Iterator[Any]:
    """Yield the owners that the object is moved away from."""
    reverse = step.reverse
    if reverse is None or not has_changed(obj, reverse.watched):
        return
    yield from changes_of(obj, reverse.key).deleted
    if reverse.foreign_keys and instance_state(obj).persistent:
        # The relationship may never have been loaded.
        yield _find(obj, reverse, _keys_before(obj, reverse))


def _keys_before(obj: Any, step: Step) -> list[Any]:
    """Return the foreign key that an object has in the database."""
    keys = [before(obj, key) for key in step.foreign_keys]
    if UNKNOWN not in keys:
        return keys
    state = instance_state(obj)
    if state.session is None or state.identity is None:
        return [None]
    columns = (getattr(state.class_, key) for key in step.foreign_keys)
    pairs = zip(state.mapper.primary_key, state.identity, strict=True)
    statement = select(*columns).where(*(one == other for one, other in pairs))
    row = state.session.execute(statement).one_or_none()
    return [None] if row is None else list(row)


def _ask(obj: Any, step: Step) -> Iterable[Any]:
    """Ask the database for the owners, where no relationship leads back."""
    state = instance_state(obj)
    if state.session is None or step.owner is None or not state.persistent:
        return ()
    attribute = getattr(step.owner, step.key)
    condition = attribute.contains(obj) if step.is_collection else attribute == obj
    return state.session.scalars(select(step.owner).where(condition)).unique()

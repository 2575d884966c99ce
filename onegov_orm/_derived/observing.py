"""Calls observers in the flush that changes what they observe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final, TypeAlias

from sqlalchemy.orm import Mapper, Session, object_session
from sqlalchemy.orm.attributes import instance_state

from onegov_orm._derived.declarations import Declarations
from onegov_orm._derived.paths import Path, parse_path
from onegov_orm._derived.walking import View, has_changed
from onegov_orm._flush_hooks import Flush, FlushHook
from onegov_orm.errors import ConfigurationError

#: The attribute of a function that tells what it observes.
MARK: Final = "__onegov_observed__"

# Observers that take longer to agree with each other never will.
_MOST_ROUNDS: Final = 100


@dataclass(frozen=True, slots=True)
class Observed:
    """What a decorated function observes."""

    paths: tuple[str, ...]
    scope: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """An observer of a class and of its subclasses."""

    name: str
    function: FunctionType
    scope: str | None
    paths: tuple[Path, ...]
    places: tuple[Place, ...]

    def is_of(self, obj: Any) -> bool:
        """Tell whether the object has this observer, not one that replaces it."""
        return getattr(type(obj), self.name, None) is self.function

    def values(self, obj: Any, view: View) -> list[Any]:
        """Return what the observer is called with."""
        return [view.value_at(obj, path) for path in self.paths]


@dataclass(frozen=True, slots=True)
class Place:
    """A class on the paths of an observer, and what of its objects matters."""

    mapper: Mapper[Any]
    #: The part of the path that leads from the observer to such an object.
    way: Path
    watched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Concern:
    """That an observer may have to be called when an object of some class changes."""

    observation: Observation
    place: Place

    def is_in(self, scopes: frozenset[str]) -> bool:
        """Tell whether the observer runs where these scopes are."""
        return self.observation.scope is None or self.observation.scope in scopes

    def matters(self, obj: Any, is_deleted: bool) -> bool:
        """Tell whether what happens to the object is of interest."""
        return bool(self.place.way) if is_deleted else has_changed(obj, self.place.watched)


#: By object and observer: the object, and the values that the observer knows.
_Called: TypeAlias = dict[tuple[int, Observation], tuple[Any, list[Any]]]


class Observers(Declarations[Observation, Concern], FlushHook):
    """All observers of the process."""

    def before_flush(self, session: Session, flush: Flush) -> None:
        """Call the observers, until none has to hear of what another one did.

        Raises `ConfigurationError` for observers that go on for ever.
        """
        called: _Called = {}
        for _ in range(_MOST_ROUNDS):
            view = View(session)
            is_any_called = self._call(session, view, flush.scopes, called)
            flush.notes.setdefault(self, []).extend(view.stale)
            if not is_any_called:
                return
        names = {observation.function.__qualname__ for _obj, observation in called}
        raise ConfigurationError(
            f"these observers undo each other's changes without end: {', '.join(sorted(names))}"
        )

    def finish(self, session: Session, flush: Flush) -> list[Any]:
        """Have collections read again that objects joined or left by their foreign keys."""
        for owner, key in flush.notes.get(self, ()):
            if owner in session and instance_state(owner).persistent:
                session.expire(owner, [key])
        return []

    def _call(self, session: Session, view: View, scopes: frozenset[str], called: _Called) -> bool:
        """Call those that don't know yet what they observe; tell whether there were any."""
        is_any_called = False
        fired = {
            (id(obj), observation): obj for obj, observation in self._fired(session, view, scopes)
        }
        for key, obj in fired.items():
            observation = key[1]
            values = observation.values(obj, view)
            if key not in called or not _are_same(called[key][1], values):
                observation.function(obj, *values)
                # It need not hear of what it changed itself.
                called[key] = (obj, observation.values(obj, view))
                is_any_called = True
        return is_any_called

    def _fired(
        self, session: Session, view: View, scopes: frozenset[str]
    ) -> Iterator[tuple[Any, Observation]]:
        """Yield the observers for which something has changed, with their objects."""
        for obj in (*session.dirty, *session.new, *view.deleted):
            for concern in self.concerning(instance_state(obj).mapper):
                if not concern.is_in(scopes) or not concern.matters(obj, obj in view.deleted):
                    continue
                for owner in view.owners_of(obj, concern.place.way):
                    if concern.observation.is_of(owner) and object_session(owner) is session:
                        yield owner, concern.observation

    # -- what classes declare

    def declares(self, mapper: Mapper[Any]) -> bool:
        """Tell whether a class has observers that it did not inherit from a mapped class."""
        return bool(own_observers(mapper))

    def declared(self, mapper: Mapper[Any]) -> Iterable[Observation]:
        """Return the observers of a class, with the places that matter to them."""
        for name, function in own_observers(mapper).items():
            observed: Observed = getattr(function, MARK)
            used_by = f"the observer {mapper.class_.__name__}.{name}"
            parsed = [parse_path(mapper, path, used_by) for path in observed.paths]
            yield Observation(
                name,
                function,
                observed.scope,
                tuple(path for path, _mappers in parsed),
                tuple(_places(parsed)),
            )

    def relate(self, declaration: Observation, mapper: Mapper[Any]) -> Iterable[Concern]:
        """Return the places of an observer where objects of the class can be."""
        return (
            Concern(declaration, each) for each in declaration.places if mapper.isa(each.mapper)
        )


observers: Final = Observers()


def own_observers(mapper: Mapper[Any]) -> dict[str, FunctionType]:
    """Return the observers by name that a class has, and its mapped base class has not.

    What replaces an observer without being one itself switches it off.
    """
    inherited = {} if mapper.inherits is None else _attributes(mapper.inherits.class_)
    return {
        name: value
        for name, value in _attributes(mapper.class_).items()
        if isinstance(value, FunctionType)
        and hasattr(value, MARK)
        and inherited.get(name) is not value
    }


def _attributes(class_: type[Any]) -> dict[str, Any]:
    """Return the attributes of a class, inherited ones too, without asking any of them."""
    attributes: dict[str, Any] = {}
    for base in reversed(class_.__mro__):
        attributes.update(vars(base))
    return attributes


def _places(parsed: Iterable[tuple[Path, Sequence[Mapper[Any]]]]) -> Iterator[Place]:
    """Yield each place once where objects can be that are on the paths, with what matters."""
    watched: dict[tuple[Mapper[Any], Path], list[str]] = {}
    for path, mappers in parsed:
        for position, mapper in enumerate(mappers):
            keys = watched.setdefault((mapper, path[:position]), [])
            keys += path[position].watched
            if position and (reverse := path[position - 1].reverse) is not None:
                keys += reverse.watched
    for (mapper, way), keys in watched.items():
        yield Place(mapper, way, tuple(dict.fromkeys(keys)))


def _are_same(one: Any, other: Any) -> bool:
    """Tell whether an observer has seen these values."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_same, one, other))
    return one is other or bool(one == other)

"""Paths of attributes such as ``pages.author.name``, understood for the class they start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy.orm import ColumnProperty, Mapper, RelationshipProperty
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.orm.interfaces import MANYTOONE

from onegov_orm.errors import ConfigurationError

#: Relationships whose attribute is a query, not the objects.
_QUERIES: Final = ("dynamic", "write_only")


@dataclass(frozen=True, slots=True)
class Step:
    """One attribute of a path."""

    key: str
    #: The attributes whose change changes where this leads to.
    watched: tuple[str, ...]
    is_relationship: bool = False
    is_collection: bool = False
    #: The attributes with the foreign key of a many-to-one relationship, in the order of the
    #: primary key that they point to.
    foreign_keys: tuple[str, ...] = ()
    #: The class that the attribute belongs to.
    owner: type[Any] | None = None
    #: The relationship that leads back.
    reverse: Step | None = None

    @property
    def link(self) -> Step | None:
        """The relationship at the other end that holds the foreign key, if it is there."""
        return self.reverse if self.reverse is not None and self.reverse.foreign_keys else None


Path: TypeAlias = tuple[Step, ...]


def parse_path(mapper: Mapper[Any], path: str, used_by: str) -> tuple[Path, list[Mapper[Any]]]:
    """Return the steps of a path, and the mapper of the class that each one starts from."""
    steps: list[Step] = []
    mappers: list[Mapper[Any]] = []
    for name in path.split("."):
        if steps and not steps[-1].is_relationship:
            raise ConfigurationError(
                f"{used_by} can't follow {path!r}: {steps[-1].key} is no relationship"
            )
        key = mapper.synonyms[name].name if name in mapper.synonyms else name
        attribute = mapper.attrs.get(key)
        if not isinstance(attribute, (ColumnProperty, RelationshipProperty)):
            raise ConfigurationError(
                f"{used_by} can't follow {path!r}: {mapper.class_.__name__}.{key} is neither a "
                "mapped column nor a relationship"
            )
        steps.append(_step(attribute, f"{used_by} can't follow {path!r}"))
        mappers.append(mapper)
        if isinstance(attribute, RelationshipProperty):
            mapper = attribute.mapper
    return tuple(steps), mappers


def _step(attribute: Any, complaint: str) -> Step:
    if not isinstance(attribute, RelationshipProperty):
        return Step(attribute.key, (attribute.key,))
    if attribute.lazy in _QUERIES:
        raise ConfigurationError(
            f"{complaint}: with lazy={attribute.lazy!r}, the objects of {attribute} aren't at hand"
        )
    return _relationship(attribute, _reverse_of(attribute))


def _reverse_of(attribute: RelationshipProperty[Any]) -> Step | None:
    backref = attribute.backref
    key = attribute.back_populates or (backref[0] if isinstance(backref, tuple) else backref)
    reverse = None if key is None else attribute.mapper.relationships.get(key)
    return None if reverse is None or reverse.lazy in _QUERIES else _relationship(reverse)


def _relationship(attribute: RelationshipProperty[Any], reverse: Step | None = None) -> Step:
    keys = _foreign_keys(attribute)
    return Step(
        attribute.key,
        (attribute.key, *keys),
        is_relationship=True,
        is_collection=bool(attribute.uselist),
        foreign_keys=keys,
        owner=attribute.parent.class_,
        reverse=reverse,
    )


def _foreign_keys(attribute: RelationshipProperty[Any]) -> tuple[str, ...]:
    """Return the attributes that hold the primary key of the other object, if they do."""
    if attribute.direction is not MANYTOONE or attribute.secondary is not None:
        return ()
    local = {remote: local for local, remote in attribute.local_remote_pairs or ()}
    try:
        columns = [local[column] for column in attribute.mapper.primary_key]
        return tuple(attribute.parent.get_property_by_column(each).key for each in columns)
    except (KeyError, UnmappedColumnError):
        return ()

"""What an aggregated column aggregates, and what its value depends on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import Column, ColumnElement
from sqlalchemy.orm import Mapper, RelationshipProperty
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.orm.interfaces import MANYTOONE, ONETOMANY
from sqlalchemy.sql.elements import ColumnClause, TextClause
from sqlalchemy.sql.visitors import iterate

from onegov_orm.errors import ConfigurationError

T = TypeVar("T")

#: Where the information of a column tells what it aggregates.
MARK: Final = "onegov_orm.aggregated"

_ColumnName: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Aggregated:
    """What a decorated function says of its column."""

    path: str
    expression: Callable[[Any], Any]


class Aggregate:
    """The aggregated column of one class.

    The levels are the classes along the path: level 0 is that of the owner, which has the
    column.
    """

    def __init__(self, mapper: Mapper[Any], key: str) -> None:
        self.mapper = mapper
        self.key = key
        self._kept: dict[Hashable, Any] = {}
        self.column: Column[Any] = mapper.column_attrs[key].columns[0]  # type: ignore[assignment]
        declared: Aggregated = self.column.info[MARK]
        self.name = f"{mapper.class_.__name__}.{key}"
        self.steps = tuple(self._follow(declared.path))
        self.levels = (mapper, *(step.mapper for step in self.steps))
        self.expression = declared.expression(mapper.class_)
        if not isinstance(self.expression, ColumnElement):
            raise ConfigurationError(
                f"{self.name} has to aggregate an SQL expression such as func.count(), not "
                f"{self.expression!r}"
            )

    def _follow(self, path: str) -> Iterator[RelationshipProperty[Any]]:
        mapper = self.mapper
        for key in path.split("."):
            step = mapper.relationships.get(key)
            if step is None:
                raise ConfigurationError(
                    f"{self.name} can't aggregate {path!r}: {mapper.class_.__name__} has no "
                    f"relationship {key!r}"
                )
            yield step
            mapper = step.mapper

    def __repr__(self) -> str:
        return f"<Aggregate {self.name}>"

    @property
    def is_circular(self) -> bool:
        """Whether the class of the owner is on the path again."""
        return any(are_akin(self.mapper, level) for level in self.levels[1:])

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made for this key, which is the same for each flush."""
        if key not in self._kept:
            self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

    # -- dependencies

    @cached_property
    def columns(self) -> frozenset[_ColumnName] | None:
        """The columns on which the value depends, by table; None if that can't be told."""
        joins = [
            join
            for step in self.steps
            for join in (step.primaryjoin, step.secondaryjoin)
            if join is not None
        ]
        return _columns_in((self.column, self.expression, *joins))

    @cached_property
    def secondaries(self) -> frozenset[Any]:
        """The tables between two levels."""
        return frozenset(step.secondary for step in self.steps if step.secondary is not None)

    def watched(self, mapper: Mapper[Any]) -> tuple[str, ...]:
        """Return the attributes of a class on which the value depends."""
        columns = (
            attribute.key for attribute in mapper.column_attrs if self._uses(attribute.columns)
        )
        links = (each.key for each in mapper.relationships if self._is_linked_by(each))
        return (*columns, *links)

    def _is_linked_by(self, relationship: RelationshipProperty[Any]) -> bool:
        """Tell whether changing a relationship changes the object or the table between."""
        if relationship.viewonly:
            return False
        if relationship.secondary is not None:
            return relationship.secondary in self.secondaries
        return relationship.direction is MANYTOONE and self._uses(relationship.local_columns)

    def _uses(self, columns: Iterable[Any]) -> bool:
        return any(self.columns is None or _name(column) in self.columns for column in columns)


def are_akin(one: Mapper[Any], other: Mapper[Any]) -> bool:
    """Tell whether two classes have a common mapped base, and so a table."""
    return one.base_mapper is other.base_mapper


def primary_key_attributes(mapper: Mapper[Any]) -> list[str]:
    """Return the names of the attributes that are the primary key."""
    return [mapper.get_property_by_column(column).key for column in mapper.primary_key]


def link_attributes(step: RelationshipProperty[Any]) -> tuple[str, ...] | None:
    """Return the attributes of the objects in a collection that hold their owner's key.

    None if it is not as simple as that.
    """
    if step.direction is not ONETOMANY or step.secondary is not None:
        return None
    return attributes_for(step.local_remote_pairs or (), step.parent, step.mapper)


def attributes_for(
    pairs: Iterable[tuple[Any, Any]], owner: Mapper[Any], holder: Mapper[Any]
) -> tuple[str, ...] | None:
    """Return the attributes of one class that hold the primary key of another, or None."""
    pairs = list(pairs)
    try:
        held = {
            owner.get_property_by_column(local).key: holder.get_property_by_column(remote).key
            for local, remote in pairs
        }
    except UnmappedColumnError:
        return None
    keys = primary_key_attributes(owner)
    is_simple = len(pairs) == len(keys) and set(held) == set(keys)
    return tuple(held[key] for key in keys) if is_simple else None


def _columns_in(expressions: Iterable[Any]) -> frozenset[_ColumnName] | None:
    found = set()
    for expression in expressions:
        for element in iterate(expression):
            if isinstance(element, Column):
                name = _name(element)
                if name is None:
                    return None
                found.add(name)
            elif _is_opaque(element):
                return None
    return frozenset(found)


def _name(column: Any) -> _ColumnName | None:
    table = getattr(getattr(column, "table", None), "fullname", None)
    return None if table is None else (table, column.name)


def _is_opaque(element: Any) -> bool:
    """Tell whether a part of an expression may name columns without it being seen."""
    if isinstance(element, TextClause):
        text = element.text
    elif isinstance(element, ColumnClause):
        text = element.name
    else:
        return False
    return not (text.strip() == "*" or text.strip().isdigit())

"""The statements that find the owners of aggregated columns, and correct these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    CTE,
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    or_,
    select,
    table,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapper, aliased

from onegov_orm._derived.aggregate import Aggregate, are_akin, primary_key_attributes

#: A primary key.
Key: TypeAlias = tuple[Any, ...]

# Names that no column has.
_KEYS: Final = "onegov_keys"
_IS_FORCED: Final = "onegov_is_forced"


def parameters(keys: Iterable[Key], is_forced: bool = False) -> dict[str, Any]:
    """Return the parameters of a statement about objects that have these primary keys."""
    return {_KEYS: [key[0] if len(key) == 1 else key for key in keys], _IS_FORCED: is_forced}


def owners_through(aggregate: Aggregate, level: int) -> Select[Any]:
    """Return the query for the owners of the objects that have the keys on a level."""
    owner = source = aliased(aggregate.mapper.class_)
    statement = select(*_primary_key(owner, aggregate.mapper)).distinct()
    for step in aggregate.steps[:level]:
        target = aliased(step.mapper.class_)
        statement = statement.join_from(source, getattr(source, step.key).of_type(target))
        source = target
    return statement.where(_is_among(_primary_key(source, aggregate.levels[level])))


def owners_with(mapper: Mapper[Any]) -> Select[Any]:
    """Return the query for the objects that have the keys."""
    return select(mapper.class_).where(_is_among(_primary_key(mapper.class_, mapper)))


class Update:
    """Corrects aggregated columns of the same rows with one statement."""

    def __init__(self, aggregates: Sequence[Aggregate]) -> None:
        self.aggregates = aggregates
        first = aggregates[0]
        self.mapper = first.mapper
        columns = {each.key: each.column for each in aggregates}
        columns |= _changed_by_any_update(first)
        #: The attributes whose values the statement returns after the primary key.
        self.attributes = tuple(columns)
        keys = _own_primary_key(first)
        #: Has others wait who change the same owners. It is weaker than FOR UPDATE: rows
        #: that refer to an owner can be inserted meanwhile.
        self.lock = (
            select(*keys).where(_is_among(keys)).order_by(*keys).with_for_update(key_share=True)
        )
        fresh = self._fresh()
        # As a table of that name: the columns of the query itself would make SQLAlchemy take the
        # statement for one of the ORM's, which synchronizes the session in its own way.
        named = table(fresh.name, *(column(each.key, each.type) for each in fresh.c))
        values = {
            each.column: named.c[f"value_{number}"] for number, each in enumerate(aggregates)
        }
        is_forced = bindparam(_IS_FORCED, False, Boolean())
        #: Corrects the owners that have the keys, and returns those that it changed.
        self.statement = (
            update(first.column.table)
            .values(values)
            .where(*(key == named.c[f"key_{number}"] for number, key in enumerate(keys)))
            .where(or_(is_forced, *(_differ(*each) for each in values.items())))
            .returning(*keys, *columns.values())
            .add_cte(fresh)
        )

    def _fresh(self) -> CTE:
        """Return the primary keys of the owners, and the aggregates as they should be."""
        is_circular = any(each.is_circular for each in self.aggregates)
        owner: Any = aliased(self.mapper.class_) if is_circular else self.mapper.class_
        keys = _primary_key(owner, self.mapper)
        values = [_value(each, owner) for each in self.aggregates]
        return (
            select(
                *(key.label(f"key_{number}") for number, key in enumerate(keys)),
                *(value.label(f"value_{number}") for number, value in enumerate(values)),
            )
            .where(_is_among(keys))
            .cte("onegov_fresh")
        )


def _value(aggregate: Aggregate, owner: Any) -> ColumnElement[Any]:
    """Return the aggregate of one owner, or the column's default where it is NULL."""
    inner = source = aliased(aggregate.mapper.class_)
    statement = select(aggregate.expression)
    for number, step in enumerate(aggregate.steps, start=1):
        # What the expression names is the last one of its kind on the path.
        is_last = not any(are_akin(step.mapper, each) for each in aggregate.levels[number + 1 :])
        target = step.mapper.class_ if is_last else aliased(step.mapper.class_)
        statement = statement.join_from(source, getattr(source, step.key).of_type(target))
        source = target
    is_same = (
        getattr(inner, key) == getattr(owner, key)
        for key in primary_key_attributes(aggregate.mapper)
    )
    value = statement.where(*is_same).correlate(owner).scalar_subquery()
    default = aggregate.column.default
    if default is not None and default.is_scalar:
        return func.coalesce(value, default.arg)  # type: ignore[attr-defined]
    return value


def _differ(own: Column[Any], value: Any) -> ColumnElement[bool]:
    if isinstance(own.type, JSON) and not isinstance(own.type, JSONB):
        # There is no equality of such values.
        return cast(own, Text).is_distinct_from(cast(value, Text))
    # As the column will have it, for instance with less digits.
    return own.is_distinct_from(cast(value, own.type))


def _changed_by_any_update(aggregate: Aggregate) -> dict[str, Any]:
    """Return the attributes, with their columns, that any update of the owner changes."""
    return {
        attribute.key: each
        for attribute in aggregate.mapper.column_attrs
        for each in attribute.columns
        if isinstance(each, Column)
        and each.table is aggregate.column.table
        and (each.onupdate is not None or each.server_onupdate is not None)
    }


def _own_primary_key(aggregate: Aggregate) -> list[Any]:
    """Return the primary key in the table of the column, in the order of the mapper's."""
    mapper = aggregate.mapper
    own = {
        mapper.get_property_by_column(each).key: each
        for each in aggregate.column.table.primary_key
    }
    return [own[key] for key in primary_key_attributes(mapper)]


def _primary_key(entity: Any, mapper: Mapper[Any]) -> list[Any]:
    return [getattr(entity, key) for key in primary_key_attributes(mapper)]


def _is_among(columns: Sequence[Any]) -> ColumnElement[bool]:
    key = columns[0] if len(columns) == 1 else tuple_(*columns)
    condition: ColumnElement[bool] = key.in_(bindparam(_KEYS, expanding=True))
    return condition

"""Finds the attributes whose columns have one of the library's types, as classes are mapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, event
from sqlalchemy.orm import Mapper

__all__ = ["for_columns_of"]

#: Takes a class and the names of its attributes.
Attach = Callable[[type[Any], list[str]], None]


def for_columns_of(sql_type: type[Any], attach: Attach) -> None:
    """Call a function for each class to come that has columns of a type, or of one derived.

    Attributes that a class inherits are given once, with the class that has them first.
    """

    def mapper_configured(mapper: Mapper[Any], class_: type[Any]) -> None:
        keys = [key for key in mapper.column_attrs.keys() if _is_new(mapper, key, sql_type)]  # noqa: SIM118
        if keys:
            attach(class_, keys)

    event.listen(Mapper, "mapper_configured", mapper_configured)


def _is_new(mapper: Mapper[Any], key: str, sql_type: type[Any]) -> bool:
    parent = None if mapper.concrete else mapper.inherits
    return _has_type(mapper, key, sql_type) and not (parent and _has_type(parent, key, sql_type))


def _has_type(mapper: Mapper[Any], key: str, sql_type: type[Any]) -> bool:
    attribute = mapper.column_attrs.get(key)
    column = attribute.columns[0] if attribute else None
    return isinstance(column, Column) and isinstance(column.type, sql_type)

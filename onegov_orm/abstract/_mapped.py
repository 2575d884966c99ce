"""Where a model stands among those that it inherits from."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Table, inspect
from sqlalchemy.orm import Mapper


def mapper_of(model: type[Any]) -> Mapper[Any]:
    """Return the mapper of a model."""
    return cast("Mapper[Any]", inspect(model))


def has_mapped_base(model: type[Any]) -> bool:
    """Tell whether a class inherits from a model; it need not be mapped itself yet."""
    return any(isinstance(inspect(base, False), Mapper) for base in model.__mro__[1:])


def table_of(mapper: Mapper[Any]) -> Table:
    """Return the table of a mapper's own."""
    return cast("Table", mapper.local_table)


def table_owner(mapper: Mapper[Any]) -> Mapper[Any]:
    """Return the mapper at the top, whose table has a row for each object."""
    while mapper.inherits is not None and not mapper.concrete:
        mapper = mapper.inherits
    return mapper


def topmost(model: type[Any], kind: type[Any]) -> Any:
    """Return the topmost model that is of a kind."""
    models = [mapper.class_ for mapper in mapper_of(model).iterate_to_root()]
    return [each for each in models if issubclass(each, kind)][-1]

"""Raw SQL as something that SQLAlchemy can select from, its columns typed by comments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Subquery, TextualSelect, column, text

from onegov_orm._selecting.listed_columns import Column, columns_of
from onegov_orm._selecting.parameters import bindable
from onegov_orm._selecting.select_list import statement_of
from onegov_orm._selecting.type_names import UnreadableType, type_from
from onegov_orm.errors import SelectableError

__all__ = ["as_selectable", "as_selectable_from_path"]


def as_selectable(
    query: str, alias: str | None = None, parameters: Mapping[str, Any] | None = None
) -> Subquery:
    """Return a SELECT that is written in SQL as a subquery with typed columns.

    Each column has its type in a comment behind it, on the same line::

        residents = as_selectable('''
            SELECT
                towns.name AS town,  -- Text
                count(*) AS number   -- Integer
            FROM residents JOIN towns ON towns.id = town_id
            WHERE age >= :age
            GROUP BY towns.name
        ''')
        session.execute(select(residents).params(age=18))

    A type is one of `onegov_orm.types`, of PostgreSQL's or of SQLAlchemy's, or is named with its
    module; it may have arguments. The values of ``:parameters`` may be given here too. Raises
    `SelectableError` for what can't be read.
    """
    selectable, names = _read(query)
    if not parameters:
        return selectable.subquery(alias)
    unknown = sorted(parameters.keys() - names)
    if unknown:
        raise SelectableError(
            f"the query has no parameter called {', '.join(unknown)}: write :name where its "
            f"value belongs (there are: {', '.join(sorted(names)) or 'none'})"
        )
    bound = selectable.element.bindparams(**parameters)
    return bound.columns(*selectable.column_args).subquery(alias)


def as_selectable_from_path(path: str | os.PathLike[str]) -> Subquery:
    """Return the SELECT of a file as a subquery whose alias is the file's name without its suffix.

    The file is read again when it changed. It is in UTF-8; raises `FileNotFoundError` without
    it, and `SelectableError` like `as_selectable`.
    """
    found = os.stat(path)
    return _read_file(
        os.fspath(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )


@lru_cache(maxsize=256)
def _read_file(path: str, *_version: int) -> Subquery:
    # Editors may put a byte order mark first.
    query = Path(path).read_text(encoding="utf-8-sig")
    try:
        return as_selectable(query, alias=Path(path).stem)
    except SelectableError as exc:
        raise SelectableError(exc.reason, exc.column, exc.line, path) from exc


@lru_cache(maxsize=256)
def _read(query: str) -> tuple[TextualSelect, frozenset[str]]:
    """Return the query as SQLAlchemy knows it, and the names of its parameters."""
    statement = statement_of(query)
    columns = [column(each.name, _type(each)) for each in columns_of(query, statement)]
    sql, names = bindable(query, statement)
    return text(sql).columns(*columns), names


def _type(listed: Column) -> Any:
    try:
        return type_from(listed.comment)
    except UnreadableType as exc:
        raise SelectableError(str(exc), listed.text, listed.line) from exc

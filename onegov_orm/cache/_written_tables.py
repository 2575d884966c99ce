"""Which tables a statement writes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Table, TextClause
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.context import FromStatement
from sqlalchemy.sql.selectable import TextualSelect

if TYPE_CHECKING:
    from sqlalchemy import MetaData

_WRITES: Final = re.compile(r"(?i)\b(insert|update|delete|merge|truncate|copy|call|do)\b")
_UNDOES: Final = re.compile(r"(?i)\brollback\b")
_WORD: Final = re.compile(r"\w+")


def text_of(statement: Any) -> str | None:
    """Return the text of a statement that is one, None for one that is made of parts."""
    inner = _inner(statement)
    return inner.text if isinstance(inner, TextClause) else None


def undoes(text: str) -> bool:
    """Tell whether a text may roll back to a savepoint."""
    return _UNDOES.search(text) is not None


def tables_in_text(text: str, catalogs: Iterable[MetaData]) -> list[Table]:
    """Return the tables that a text that writes names."""
    if not _WRITES.search(text):
        return []
    folded = text.lower()
    words = set(_WORD.findall(folded))
    tables = (table for catalog in catalogs for table in catalog.tables.values())
    return [table for table in tables if _is_named(table.name.lower(), folded, words)]


def tables_of_statement(statement: Any, mapper: Mapper[Any] | None) -> Collection[Table]:
    """Return the tables that a statement writes: those of a class in several, if it is of one."""
    inner = _inner(statement)
    if not getattr(inner, "is_dml", False):
        added = getattr(inner, "_independent_ctes", ())
        return [table for each in added for table in tables_of_statement(each.element, None)]
    if mapper is not None:
        return [each for each in mapper.tables if isinstance(each, Table)]
    target = inner.table
    while not isinstance(target, Table) and hasattr(target, "element"):
        target = target.element
    return [target] if isinstance(target, Table) else []


def _inner(statement: Any) -> Any:
    """Return what is run, without what says how its rows are read."""
    while isinstance(statement, (FromStatement, TextualSelect)):
        statement = statement.element
    return statement


def _is_named(name: str, text: str, words: set[str]) -> bool:
    return name in words or (not _WORD.fullmatch(name) and name in text)

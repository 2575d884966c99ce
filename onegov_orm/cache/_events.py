"""Listens to what sessions change, for the cache.

The signals of a manager would tell too, but with the whole objects: bulk statements would have
to return what they touch. Here the tables are enough.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import TextClause, event
from sqlalchemy.orm import PassiveFlag

from onegov_orm.cache._generations import next_moment

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Mapper, ORMExecuteState, Session, SessionTransaction

    from onegov_orm.cache.orm_cache import OrmCache

#: The attribute of a session that says when its open transaction took its first look.
BEGAN: Final = "_onegov_cache_began"

#: The attribute of a session with the memo of its last transaction.
MEMO: Final = "_onegov_cache_memo"

#: The many-to-many relationships of classes that were written.
_ASSOCIATIONS: weakref.WeakKeyDictionary[Mapper[Any], list[tuple[str, Table]]] = (
    weakref.WeakKeyDictionary()
)

_WRITES: Final = re.compile(
    r"\b(insert|update|delete|merge|truncate|copy|call|do)\b", re.IGNORECASE
)
_WORD: Final = re.compile(r"\w+")


class CacheEvents:
    """Tells a cache, which it holds weakly, what sessions change."""

    def __init__(self, cache: OrmCache) -> None:
        self._cache = weakref.ref(cache)

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker."""
        for name in (
            "after_begin",
            "after_flush",
            "do_orm_execute",
            "after_soft_rollback",
            "after_transaction_end",
        ):
            event.listen(target, name, getattr(self, name))

    def after_begin(
        self, session: Session, transaction: SessionTransaction, connection: Connection
    ) -> None:
        """Note when the transaction took its first look at the database."""
        session.__dict__.setdefault(BEGAN, next_moment())

    def after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Forget that moment with the transaction."""
        if transaction.parent is None:
            session.__dict__.pop(BEGAN, None)

    def after_soft_rollback(self, session: Session, transaction: SessionTransaction) -> None:
        """Forget the values of a transaction or savepoint that was rolled back."""
        memo = session.__dict__.get(MEMO)
        if memo is not None:
            memo.forget()

    def after_flush(self, session: Session, flush_context: Any) -> None:
        """Tell of the tables and objects that a flush writes."""
        cache = self._cache()
        if cache is None or not flush_context.states:
            return
        written = [
            state for state, (_delete, is_only_listed) in flush_context.states.items()
            if not is_only_listed
        ]  # fmt: skip
        tables = {table for mapper in {each.mapper for each in written} for table in mapper.tables}
        tables.update(table for state in written for table in _associations(state))
        cache.touch(session, tables, [each.obj() for each in written])

    def do_orm_execute(self, execute: ORMExecuteState) -> None:
        """Tell of the tables that a statement writes."""
        cache = self._cache()
        if cache is None or execute.is_select:
            return
        statement: Any = execute.statement
        if isinstance(statement, TextClause):
            if _WRITES.search(statement.text):
                words = set(_WORD.findall(statement.text))
                cache.touch(execute.session, _tables_named(words, cache.catalogs()), None)
        elif statement.is_dml:
            cache.touch(execute.session, _written(execute.bind_mapper, statement.table), None)

    def after_bulk_change(self, session: Session, mapper: Mapper[Any]) -> None:
        """Tell of the tables that one of a session's bulk_ methods writes."""
        cache = self._cache()
        if cache is not None:
            cache.touch(session, _written(mapper, mapper.local_table), None)


def _tables_named(words: Collection[str], catalogs: Iterable[MetaData]) -> list[Table]:
    """Return the tables that are called like one of the words."""
    tables = (table for catalog in catalogs for table in catalog.tables.values())
    return [table for table in tables if table.name in words]


def _written(mapper: Mapper[Any] | None, table: Any) -> list[Any]:
    """Return the tables that a bulk statement may write: it may be of a class in several."""
    return [table] if mapper is None else list(mapper.tables)


def _associations(state: Any) -> Iterator[Table]:
    """Yield the association tables in which a flush writes for an object."""
    for key, table in _many_to_many(state.mapper):
        if state.get_history(key, PassiveFlag.PASSIVE_NO_INITIALIZE).has_changes():
            yield table


def _many_to_many(mapper: Mapper[Any]) -> list[tuple[str, Table]]:
    found = _ASSOCIATIONS.get(mapper)
    if found is None:
        found = _ASSOCIATIONS[mapper] = [
            (each.key, each.secondary)  # type: ignore[misc]
            for each in mapper.relationships
            if each.secondary is not None
        ]
    return found

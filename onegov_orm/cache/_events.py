"""Listens to what sessions change, for the cache.

The signals of a manager would tell too, but with the whole objects: bulk statements would have
to return what they touch. Here the tables are enough.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.orm import PassiveFlag
from sqlalchemy.orm.base import LoaderCallableStatus

from onegov_orm._units import HAS_BEGUN
from onegov_orm.cache._generations import next_moment
from onegov_orm.cache._memo import Memo
from onegov_orm.cache._written_tables import tables_in_text, tables_of_statement, text_of, undoes

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import InstanceState, Mapper, ORMExecuteState, Session, SessionTransaction

    from onegov_orm.cache.orm_cache import OrmCache

#: A session that saw the database before anybody took note of it, or that reads a replica.
_LONG_AGO = -1

_numbers = itertools.count()

#: The many-to-many relationships of classes that were written.
_ASSOCIATIONS: weakref.WeakKeyDictionary[Mapper[Any], list[tuple[str, Table]]] = (
    weakref.WeakKeyDictionary()
)


class CacheEvents:
    """Tells a cache, which it holds weakly, what sessions change, and when they end."""

    def __init__(self, cache: OrmCache) -> None:
        self._cache = weakref.ref(cache)
        number = next(_numbers)
        #: The attributes of sessions: when the open transaction, or what is left of it in the
        #: identity map, took its first look; the memo; and what was changed.
        self._began = f"_onegov_cache_began_{number}"
        self._memo = f"_onegov_cache_memo_{number}"
        self._changed = f"_onegov_cache_changed_{number}"

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker, before those who run hooks."""
        for name in ("after_begin", "after_flush", "do_orm_execute", "after_soft_rollback"):
            event.listen(target, name, getattr(self, name))
        event.listen(target, "after_transaction_end", self.after_transaction_end, insert=True)

    def began(self, session: Session) -> float:
        """Return when the session took its first look at the database."""
        unknown = _LONG_AGO if getattr(session, HAS_BEGUN, False) else float("inf")
        return float(session.__dict__.get(self._began, unknown))

    def use(self, session: Session, memo: Memo) -> None:
        """Have the memo follow the session's rollbacks and the end of its transaction."""
        session.__dict__[self._memo] = memo

    def note(self, session: Session, keys: set[str], memo: Memo) -> None:
        """Have the keys renewed when the session's transaction ends."""
        self.use(session, memo)
        session.__dict__.setdefault(self._changed, set()).update(keys)

    def is_changing(self, session: Session) -> bool:
        """Tell whether the session's transaction is known to have written."""
        return bool(session.__dict__.get(self._changed))

    def after_begin(
        self, session: Session, transaction: SessionTransaction, connection: Connection
    ) -> None:
        """Note when the transaction took its first look at the database."""
        cache = self._cache()
        is_late = getattr(session, "access", None) is not None and cache is not None
        moment = _LONG_AGO if is_late and cache.reads_replicas else next_moment()  # type: ignore[union-attr]
        session.__dict__.setdefault(self._began, moment)

    def after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Renew what was changed, and forget what was read."""
        if transaction.parent is not None:
            return
        state = session.__dict__
        # A rollback is told after this.
        memo: Memo | None = state.get(self._memo)
        if memo is not None:
            memo.end()
        # What stays in the identity map without being read again is as old as it is.
        if session.expire_on_commit or not len(session.identity_map):
            state.pop(self._began, None)
        keys = state.pop(self._changed, None)
        cache = self._cache()
        if keys and cache is not None and memo is not None:
            cache.renew(keys, memo)

    def after_soft_rollback(self, session: Session, transaction: SessionTransaction) -> None:
        """Forget the values of a transaction or savepoint that was rolled back."""
        memo: Memo | None = session.__dict__.get(self._memo)
        if memo is not None:
            memo.undo()

    def after_flush(self, session: Session, flush_context: Any) -> None:
        """Tell of the tables and objects that a flush writes."""
        cache = self._cache()
        if cache is None or not flush_context.states:
            return
        written = {
            state: is_deleted
            for state, (is_deleted, is_only_listed) in flush_context.states.items()
            if not is_only_listed
        }
        tables = {table for mapper in {each.mapper for each in written} for table in mapper.tables}
        for state, is_deleted in written.items():
            tables.update(_associations(state, is_deleted))
        cache.touch(session, tables, lambda: _objects(written))

    def do_orm_execute(self, execute: ORMExecuteState) -> None:
        """Tell of the tables that a statement writes."""
        cache = self._cache()
        if cache is None:
            return
        text = text_of(execute.statement)
        if text is not None:
            if undoes(text):
                self.after_soft_rollback(execute.session, None)  # type: ignore[arg-type]
            tables: Collection[Table] = tables_in_text(text, cache.catalogs())
        else:
            tables = tables_of_statement(execute.statement, execute.bind_mapper)
        if tables:
            cache.touch(execute.session, tables, None)

    def after_bulk_change(self, session: Session, mapper: Mapper[Any]) -> None:
        """Tell of the tables that one of a session's bulk_ methods writes."""
        cache = self._cache()
        if cache is not None:
            cache.touch(session, mapper.tables, None)  # type: ignore[arg-type]


def _objects(written: dict[InstanceState[Any], bool]) -> Iterator[Any]:
    """Yield the objects as they are, and those that changed also as they were."""
    for state in written:
        yield state.obj()
        if state.committed_state and state.key is not None:
            yield _before(state)


def _before(state: InstanceState[Any]) -> Any:
    """Return an object that is in no session, with the values of before the change."""
    found: Any = state.manager.new_instance()
    found.__dict__.update(
        {key: value for key, value in state.dict.items() if key != "_sa_instance_state"}
    )
    for key, value in state.committed_state.items():
        if isinstance(value, LoaderCallableStatus):
            found.__dict__.pop(key, None)
        else:
            found.__dict__[key] = value
    return found


def _associations(state: Any, is_deleted: bool) -> Iterator[Table]:
    """Yield the association tables in which a flush writes for an object."""
    for key, table in _many_to_many(state.mapper):
        if is_deleted or state.get_history(key, PassiveFlag.PASSIVE_NO_INITIALIZE).has_changes():
            yield table


def _many_to_many(mapper: Mapper[Any]) -> list[tuple[str, Table]]:
    found = _ASSOCIATIONS.get(mapper)
    if found is None:
        found = _ASSOCIATIONS[mapper] = [
            (each.key, each.secondary)  # type: ignore[misc]
            for each in mapper.relationships
            if each.secondary is not None and not each.viewonly
        ]
    return found


#: Yields the objects of a flush, when somebody asks for them.
Objects = Callable[[], Iterator[Any]]

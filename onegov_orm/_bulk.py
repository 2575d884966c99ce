"""Announces what ORM-enabled bulk statements change, by ``RETURNING``.

Nothing is added to a statement that nobody listens to.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, inspect, literal_column, select, tuple_
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import with_polymorphic

from onegov_orm._flush_hooks import hooks
from onegov_orm.changes import Kind
from onegov_orm.errors import BulkChangeNotSupported

if TYPE_CHECKING:
    from sqlalchemy.engine import Result
    from sqlalchemy.orm import Mapper, ORMExecuteState, Session

    from onegov_orm._changes import Announcer

#: How many primary keys are looked up with one statement.
_BATCH_SIZE = 1000


class BulkResult(IteratorResult[Any]):
    """The rows that the caller asked for, and how many rows the statement touched."""

    def __init__(self, keys: Sequence[str], rows: Iterator[Any], rowcount: int) -> None:
        super().__init__(SimpleResultMetaData(keys), rows)
        self.rowcount = rowcount
        self.returns_rows = bool(keys)
        self.inserted_primary_key_rows: list[tuple[Any, ...]] = []

    @property
    def inserted_primary_key(self) -> tuple[Any, ...] | None:
        """The primary key of the row that was inserted."""
        return self.inserted_primary_key_rows[0] if self.inserted_primary_key_rows else None


class BulkEvents:
    """Listens to the bulk statements of sessions."""

    def __init__(self, announcer: Announcer) -> None:
        self.announcer = announcer

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker."""
        event.listen(target, "do_orm_execute", self.do_orm_execute)

    def do_orm_execute(self, execute: ORMExecuteState) -> Result[Any] | None:
        """Run a bulk statement so that the touched objects become known."""
        if execute.is_select or not execute.is_orm_statement:
            return None
        kind = _kind(execute)
        mapper = execute.bind_mapper
        if kind is None or mapper is None or self.is_ignored(kind):
            return None
        refuse_aggregates(mapper, kind)
        kinds = [kind, Kind.UPDATE] if _is_upsert(execute.statement) else [kind]
        if not self.announcer.is_heard(execute.session, *kinds):
            return None
        return self._runner(execute, kind, mapper)(execute, mapper)

    def is_ignored(self, kind: Kind) -> bool:
        """Tell whether such bulk changes are let through here and now."""
        current = self.announcer.current
        return (kind is Kind.UPDATE and current.ignores_bulk_updates.get()) or (
            kind is Kind.DELETE and current.ignores_bulk_deletes.get()
        )

    def _runner(
        self, execute: ORMExecuteState, kind: Kind, mapper: Mapper[Any]
    ) -> Callable[[ORMExecuteState, Mapper[Any]], Result[Any]]:
        if kind is Kind.INSERT:
            return self._insert
        if isinstance(execute.parameters, list):
            refuse_criteria(execute.statement, kind)
            return self._update_by_primary_key
        refuse_unreturnable(execute.statement, mapper, kind)
        if len(tables_of(mapper)) > 1:
            return self._change_joined
        return self._change

    def _insert(self, execute: ORMExecuteState, mapper: Mapper[Any]) -> Result[Any]:
        extra: list[Any] = [mapper.entity]
        is_upsert = _is_upsert(execute.statement)
        if is_upsert:
            # A row that the statement updated instead carries the mark of this transaction.
            extra.insert(0, literal_column("(xmax = 0)"))
        is_fresh = not execute.session.dirty
        rows, result = _run_returning(execute, extra)
        inserted = [row[-1] for row in rows if not is_upsert or row[-2]]
        updated = [row[-1] for row in rows if is_upsert and not row[-2]]
        result.inserted_primary_key_rows = [inspect(obj).key[1] for obj in inserted]
        if not is_fresh:
            list(load(execute.session, mapper, [inspect(obj).key[1] for obj in updated]))
        self.announcer.announce(execute.session, Kind.INSERT, inserted)
        if not self.is_ignored(Kind.UPDATE):
            self.announcer.announce(execute.session, Kind.UPDATE, updated)
        return result

    def _change(self, execute: ORMExecuteState, mapper: Mapper[Any]) -> Result[Any]:
        """Update or delete the rows of a class that lives in one table."""
        is_fresh = not execute.session.dirty
        rows, result = _run_returning(execute, [whole(mapper)])
        objects = [row[-1] for row in rows]
        if execute.is_update and not is_fresh:
            keys = [inspect(obj).key[1] for obj in objects]
            objects = list(load(execute.session, mapper, keys))
        self._announce_change(execute, objects)
        return result

    def _change_joined(self, execute: ORMExecuteState, mapper: Mapper[Any]) -> Result[Any]:
        """Update or delete the rows of one table of a class that lives in several.

        ``RETURNING`` sees that one table only, so that whole objects are read beside it:
        before a delete, after an update.
        """
        session = execute.session
        is_delete = execute.is_delete
        before = _matching(execute, mapper) if is_delete else {}
        key_columns = _local_primary_key(mapper)
        rows, result = _run_returning(execute, key_columns)
        keys = [tuple(row[-len(key_columns) :]) for row in rows]
        if is_delete:
            objects = [before[key] for key in keys if key in before]
        else:
            objects = list(load(session, mapper, keys))
        self._announce_change(execute, objects)
        return result

    def _announce_change(self, execute: ORMExecuteState, objects: list[Any]) -> None:
        if execute.is_update:
            self.announcer.announce(execute.session, Kind.UPDATE, objects)
            return
        for obj in objects:
            if inspect(obj).session is execute.session:
                execute.session.expunge(obj)
        self.announcer.announce(execute.session, Kind.DELETE, objects)

    def _update_by_primary_key(self, execute: ORMExecuteState, mapper: Mapper[Any]) -> Result[Any]:
        result = execute.invoke_statement()
        parameters: Any = execute.parameters
        keys = primary_keys(mapper, parameters)
        objects = list(load(execute.session, mapper, keys))
        self.announcer.announce(execute.session, Kind.UPDATE, objects)
        return result


def refuse_aggregates(mapper: Mapper[Any], kind: Kind) -> None:
    """Raise `BulkChangeNotSupported` if the bulk change would make an aggregate wrong."""
    for name in aggregated_over(mapper):
        advice = "change the objects one by one"
        if kind is not Kind.INSERT:
            advice += (
                f", or go ahead inside `with mgr.ignore_bulk_{kind.value}s():` and correct "
                "the aggregate yourself"
            )
        raise BulkChangeNotSupported(
            f"a bulk {kind.value} of {mapper.class_.__name__} would leave {name} wrong, which is "
            f"aggregated: {advice}"
        )


def aggregated_over(mapper: Mapper[Any]) -> Iterator[str]:
    """Yield the aggregated columns that depend on a class, ours and SQLAlchemy-Utils'."""
    yield from (name for hook in hooks for name in hook.kept_from(mapper))
    # Only an application that uses that one has imported it.
    others = sys.modules.get("sqlalchemy_utils.aggregates")
    registry = others.manager.generator_registry if others is not None else {}
    for value in [value for values in list(registry.values()) for value in values]:
        classes = [value.class_, *(step.mapper.class_ for step in value.relationships)]
        if any(_is_related(mapper.class_, each) for each in classes):
            yield f"{value.class_.__name__}.{value.attr.name}"


def refuse_criteria(statement: Any, kind: Kind) -> None:
    """Raise `BulkChangeNotSupported` for several sets of parameters and criteria."""
    if statement.whereclause is not None or kind is Kind.DELETE:
        raise BulkChangeNotSupported(
            f"PostgreSQL can't tell which rows {kind.value}s with several sets of parameters "
            f"touch: run one statement per set, or go ahead without announcing them inside "
            f"`with mgr.ignore_bulk_{kind.value}s():`"
        )


def refuse_unreturnable(statement: Any, mapper: Mapper[Any], kind: Kind) -> None:
    """Raise `BulkChangeNotSupported` where ``RETURNING`` would not tell what was changed."""
    reason = None
    if inspect(statement.entity_description["entity"]).is_aliased_class:
        reason = f"a bulk {kind.value} of an alias can't be announced: use the class itself"
    elif kind is Kind.UPDATE and _sets_primary_key(statement, mapper):
        reason = (
            "PostgreSQL can't tell which primary keys a bulk update replaces: change the "
            "objects one by one"
        )
    if reason is not None:
        raise BulkChangeNotSupported(
            f"{reason}, or go ahead without announcing anything inside "
            f"`with mgr.ignore_bulk_{kind.value}s():`"
        )


def tables_of(mapper: Mapper[Any]) -> set[Any]:
    """Return the tables in which the objects of a class hierarchy live."""
    return {each.local_table for each in mapper.base_mapper.self_and_descendants}


def whole(mapper: Mapper[Any]) -> Any:
    """Return what to select so that objects of subclasses have their own columns too."""
    if len(list(mapper.self_and_descendants)) > 1:
        return with_polymorphic(mapper.class_, "*")
    return mapper.entity


def primary_keys(mapper: Mapper[Any], mappings: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the primary keys in dictionaries of attribute values."""
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    return [tuple(mapping[name] for name in names) for mapping in mappings]


def load(session: Session, mapper: Mapper[Any], keys: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Read the objects with these primary keys as they are now.

    What was set on them and is not flushed yet stays.
    """
    remaining = iter(dict.fromkeys(keys))
    while batch := list(islice(remaining, _BATCH_SIZE)):
        for key in batch:
            obj = session.identity_map.get(mapper.identity_key_from_primary_key(key))
            if obj is not None:
                state = inspect(obj)
                columns = state.mapper.column_attrs.keys()
                session.expire(obj, state.unmodified.intersection(columns))
        yield from _select(session, mapper, batch)


def complete(session: Session, objects: Iterable[Any]) -> None:
    """Read the columns that have expired of those objects that are in the session."""
    incomplete: dict[Mapper[Any], list[tuple[Any, ...]]] = defaultdict(list)
    for state in map(inspect, objects):
        expired = state.expired_attributes
        if expired and state.persistent and expired.intersection(state.mapper.column_attrs.keys()):
            incomplete[state.mapper].append(state.key[1])
    for mapper, keys in incomplete.items():
        remaining = iter(dict.fromkeys(keys))
        while batch := list(islice(remaining, _BATCH_SIZE)):
            _select(session, mapper, batch)


def _select(session: Session, mapper: Mapper[Any], keys: Sequence[tuple[Any, ...]]) -> list[Any]:
    # Reads what is missing in the objects that are in the session already.
    statement = select(whole(mapper)).where(tuple_(*mapper.primary_key).in_(keys))
    return list(session.scalars(statement, execution_options={"autoflush": False}).unique())


def _kind(execute: ORMExecuteState) -> Kind | None:
    if execute.is_update:
        return Kind.UPDATE
    if execute.is_delete:
        return Kind.DELETE
    return Kind.INSERT if execute.is_insert else None


def _is_upsert(statement: Any) -> bool:
    return getattr(statement, "_post_values_clause", None) is not None


def _is_related(one: type[Any], other: type[Any]) -> bool:
    return issubclass(one, other) or issubclass(other, one)


def _sets_primary_key(statement: Any, mapper: Mapper[Any]) -> bool:
    values = dict(statement._values or statement._ordered_values or ())
    names: set[Any] = {mapper.get_property_by_column(column).key for column in mapper.primary_key}
    names.update(column.key for column in mapper.primary_key)
    return not names.isdisjoint(getattr(column, "key", column) for column in values)


def _run_returning(
    execute: ORMExecuteState, extra: Sequence[Any]
) -> tuple[Sequence[Any], BulkResult]:
    """Run the statement with more columns returned; give the caller what it asked for."""
    statement: Any = execute.statement
    result = execute.invoke_statement(
        statement=statement.returning(*extra),
        execution_options=_refreshing(execute.session),
    )
    keys = list(result.keys())[: -len(extra)]
    rows = result.all()
    wanted = (row[: len(keys)] for row in rows) if keys else iter(())
    return rows, BulkResult(keys, wanted, len(rows))


def _refreshing(session: Session) -> dict[str, Any]:
    """Return the options with which objects in the session are brought up to date.

    It would overwrite what was set on objects and is not flushed yet.
    """
    return {} if session.dirty else {"populate_existing": True}


def _matching(execute: ORMExecuteState, mapper: Mapper[Any]) -> dict[tuple[Any, ...], Any]:
    """Read the objects that a delete is going to match, whole and locked."""
    statement: Any = execute.statement
    criteria = statement.whereclause
    query = select(whole(mapper)).with_for_update(of=mapper.local_table)
    if criteria is not None:
        query = query.where(criteria)
    found = execute.session.scalars(
        query,
        params=execute.parameters or {},
        execution_options=_refreshing(execute.session),
    ).unique()
    return {inspect(obj).key[1]: obj for obj in found}


def _local_primary_key(mapper: Mapper[Any]) -> list[Any]:
    """Return the primary key columns of the class's own table, in the mapper's order."""
    local = {
        mapper.get_property_by_column(column).key: column
        for column in mapper.local_table.primary_key
    }
    return [local[mapper.get_property_by_column(column).key] for column in mapper.primary_key]

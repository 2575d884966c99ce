"""Announces what ORM-enabled bulk statements change, by ``RETURNING``.

Nothing is added to a statement that nobody listens to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, inspect, literal_column, select, tuple_
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import selectin_polymorphic

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
        if kind is None or self._is_ignored(kind):
            return None
        mapper = execute.bind_mapper
        if mapper is None:
            return None
        refuse_aggregates(mapper, kind)
        if not self.announcer.is_heard(kind):
            return None
        return self._runner(execute, kind, mapper)(execute, mapper)

    def _is_ignored(self, kind: Kind) -> bool:
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
            return self._update_by_primary_key
        if len(tables_of(mapper)) > 1:
            return self._change_joined
        return self._change

    def _insert(self, execute: ORMExecuteState, mapper: Mapper[Any]) -> Result[Any]:
        statement: Any = execute.statement
        upserts = getattr(statement, "_post_values_clause", None) is not None
        extra: list[Any] = [mapper.entity]
        if upserts:
            # A row that the statement updated instead carries the mark of this transaction.
            extra.insert(0, literal_column("(xmax = 0)"))
        rows, result = _run_returning(execute, extra)
        inserted = [row[-1] for row in rows if not upserts or row[-2]]
        updated = [row[-1] for row in rows if upserts and not row[-2]]
        self.announcer.announce(execute.session, Kind.INSERT, inserted)
        self.announcer.announce(execute.session, Kind.UPDATE, updated)
        return result

    def _change(self, execute: ORMExecuteState, mapper: Mapper[Any]) -> Result[Any]:
        """Update or delete the rows of a class that lives in one table."""
        rows, result = _run_returning(execute, [mapper.entity])
        self._announce_change(execute, [row[-1] for row in rows])
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
            if obj in execute.session:
                execute.session.expunge(obj)
        self.announcer.announce(execute.session, Kind.DELETE, objects)

    def _update_by_primary_key(self, execute: ORMExecuteState, mapper: Mapper[Any]) -> Result[Any]:
        statement: Any = execute.statement
        if statement.whereclause is not None or not isinstance(execute.parameters, list):
            raise BulkChangeNotSupported(
                "PostgreSQL can't tell which rows an update with criteria and several sets of "
                "parameters touches: run one update per set, or go ahead without announcing "
                "them inside `with mgr.ignore_bulk_updates():`"
            )
        result = execute.invoke_statement()
        keys = primary_keys(mapper, execute.parameters)
        objects = list(load(execute.session, mapper, keys))
        self.announcer.announce(execute.session, Kind.UPDATE, objects)
        return result


def refuse_aggregates(mapper: Mapper[Any], kind: Kind) -> None:
    """Raise `BulkChangeNotSupported` if the bulk change would make an aggregate wrong."""
    # Only an application that uses aggregates has imported this module.
    aggregates = sys.modules.get("sqlalchemy_utils.aggregates")
    if aggregates is None:
        return
    registry = aggregates.manager.generator_registry
    for source, values in list(registry.items()):
        if issubclass(mapper.class_, (source, *(value.class_ for value in values))):
            raise BulkChangeNotSupported(
                f"a bulk {kind.value} of {mapper.class_.__name__} would leave "
                f"{values[0].class_.__name__}.{values[0].attr.name} wrong, which is aggregated: "
                f"change the objects one by one, or go ahead inside "
                f"`with mgr.ignore_bulk_{kind.value}s():` and correct the aggregate yourself"
            )


def tables_of(mapper: Mapper[Any]) -> set[Any]:
    """Return the tables in which the objects of a class hierarchy live."""
    return {each.local_table for each in mapper.base_mapper.self_and_descendants}


def primary_keys(mapper: Mapper[Any], mappings: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the primary keys in dictionaries of attribute values."""
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    return [tuple(mapping[name] for name in names) for mapping in mappings]


def load(session: Session, mapper: Mapper[Any], keys: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Read the objects with these primary keys as they are now, in this order."""
    remaining = iter(keys)
    while batch := list(islice(remaining, _BATCH_SIZE)):
        statement = select(mapper.entity).where(tuple_(*mapper.primary_key).in_(batch))
        found = session.scalars(
            statement, execution_options={"populate_existing": True, "autoflush": False}
        ).unique()
        by_key = {inspect(obj).key[1]: obj for obj in found}
        yield from (by_key[key] for key in batch if key in by_key)


def _kind(execute: ORMExecuteState) -> Kind | None:
    if execute.is_update:
        return Kind.UPDATE
    if execute.is_delete:
        return Kind.DELETE
    return Kind.INSERT if execute.is_insert else None


def _run_returning(
    execute: ORMExecuteState, extra: Sequence[Any]
) -> tuple[Sequence[Any], BulkResult]:
    """Run the statement with more columns returned; give the caller what it asked for."""
    statement: Any = execute.statement
    result = execute.invoke_statement(
        statement=statement.returning(*extra),
        execution_options={"populate_existing": True},
    )
    keys = list(result.keys())[: -len(extra)]
    rows = result.all()
    wanted = (row[: len(keys)] for row in rows) if keys else iter(())
    return rows, BulkResult(keys, wanted, len(rows))


def _matching(execute: ORMExecuteState, mapper: Mapper[Any]) -> dict[tuple[Any, ...], Any]:
    """Read the objects that a delete is going to match, whole and locked."""
    statement: Any = execute.statement
    criteria = statement.whereclause
    query = select(mapper.entity).with_for_update(of=mapper.local_table)
    if criteria is not None:
        query = query.where(criteria)
    below = [each.class_ for each in mapper.self_and_descendants if each is not mapper]
    if below:
        query = query.options(selectin_polymorphic(mapper.entity, below))
    found = execute.session.scalars(
        query, params=execute.parameters or {}, execution_options={"populate_existing": True}
    ).unique()
    return {inspect(obj).key[1]: obj for obj in found}


def _local_primary_key(mapper: Mapper[Any]) -> list[Any]:
    """Return the primary key columns of the class's own table, in the mapper's order."""
    local = {
        mapper.get_property_by_column(column).key: column
        for column in mapper.local_table.primary_key
    }
    return [local[mapper.get_property_by_column(column).key] for column in mapper.primary_key]

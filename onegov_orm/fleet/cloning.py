"""Copies a schema under another name: its structure, and its rows if they are wanted.

All of it happens in one transaction, on one snapshot of the original, which can be read and
written meanwhile. The copy is checked before it is committed: it is written down again, which
has to give the same, and nothing in it may depend on the original.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from onegov_orm._ddl import run_script
from onegov_orm._marking import read_mark, write_mark
from onegov_orm.errors import (
    ConfigurationError,
    CopyFailed,
    PermissionDenied,
    PointsBack,
    SchemaExists,
    TooManyLocks,
)
from onegov_orm.fleet import _sql_blueprint_rest, _sql_cloning
from onegov_orm.fleet._blueprint_making import (
    make,
    make_owners,
    make_privileges,
    naming,
    set_sequences,
)
from onegov_orm.fleet._blueprint_mentions import refuse_mentions
from onegov_orm.fleet._blueprint_prelude import work_in
from onegov_orm.fleet._sql_fingerprints import BOOKKEEPING
from onegov_orm.fleet.blueprint import Blueprint, TableRows, read_blueprint
from onegov_orm.marks import Mark
from onegov_orm.names import SchemaName
from onegov_orm.provisioning import create_schema, lock, schema_exists

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext

#: How many sequences are asked at once where they stand.
_SEQUENCES_AT_ONCE: Final = 200

#: A round number of locks, for a setting that people read.
_LOCKS_STEP: Final = 64


def clone(context: FleetContext, source: str, target: str, *, data: bool = True) -> None:
    """Copy a schema under another name, with its rows or without.

    Without rows, those of ``alembic_version`` and ``upgrades`` are copied all the same: they
    tell how far the structure is. Materialized views are filled anew. Raises `SchemaNotFound`,
    `ForeignSchema`, `SchemaExists`, `UncloneableObject`, `PointsBack`, `TooManyLocks`,
    `PermissionDenied` and `CopyFailed`; nothing is left then.
    """
    source_name = context.manager.parse_schema(source)
    target_name = context.manager.parse_schema(target)
    if source_name == target_name:
        raise ConfigurationError(f'a copy of "{source}" needs another name')
    with (
        guarded(context, source_name, target_name),
        context.connected(isolation_level="REPEATABLE READ") as connection,
        connection.begin(),
    ):
        _Cloning(connection, source_name, target_name).run(data)
    context.manager.provisioner.forget(target_name)


@contextmanager
def guarded(context: FleetContext, *schemas: SchemaName) -> Iterator[None]:
    """Hold the locks of schemas on a connection of its own, from before the snapshot is taken.

    The transaction that waits for a lock would see what was there before it waited.
    """
    with context.connected() as connection, connection.begin():
        connection.exec_driver_sql(_sql_cloning.NEVER_IDLE)
        for schema in sorted(schemas):
            lock(connection, f"schema {schema}")
        yield


class _Cloning:
    """One copy, in the connection's transaction."""

    def __init__(self, connection: Connection, source: SchemaName, target: SchemaName) -> None:
        self._connection = connection
        self._source = source
        self._target = target

    def run(self, data: bool) -> None:
        """Make the copy and check it."""
        connection, source, target = self._connection, self._source, self._target
        read_mark(connection, source)
        if schema_exists(connection, target):
            raise SchemaExists(target)
        refuse_too_many_locks(connection, source, sum(locks_of(connection, source)))
        hold_tables(connection, source)
        blueprint = read_blueprint(connection, source)
        refuse_mentions(blueprint)
        tables = [table for table in blueprint.tables if data or table.name in BOOKKEEPING]
        refuse_hidden_rows(connection, source, tables)
        create_schema(connection, target)
        work_in(connection, target)
        make(connection, target, blueprint.before)
        self._copy_rows(tables)
        make(connection, target, blueprint.after)
        if data:
            values = read_sequences(connection, source, blueprint.sequences)
            set_sequences(connection, target, values)
        make_privileges(connection, target, blueprint)
        write_mark(connection, target, Mark.new(note=f"cloned from {source}"))
        self._check(blueprint)
        make_owners(connection, target, blueprint)

    def _copy_rows(self, tables: Sequence[TableRows]) -> None:
        for table in tables:
            sql = _sql_cloning.insert_rows(
                self._source, self._target, table.name, table.into, table.columns
            )
            with naming(self._target, f"rows of table {table.name}"):
                run_script(self._connection, [sql])

    def _check(self, blueprint: Blueprint) -> None:
        connection, source, target = self._connection, self._source, self._target
        check_copy(connection, target, blueprint)
        oids = [_oid(connection, schema) for schema in (target, source)]
        parameters = dict(zip(("namespace", "other"), oids, strict=True))
        found = connection.execute(text(_sql_blueprint_rest.REFERENCES), parameters).all()
        if found:
            raise PointsBack(source, [f"{what} uses {used}" for what, used in found])


def check_copy(connection: Connection, schema: SchemaName, blueprint: Blueprint) -> None:
    """Raise `CopyFailed` unless the structure of the schema is what the blueprint tells."""
    different = blueprint.difference(read_blueprint(connection, schema))
    if different is not None:
        raise CopyFailed(schema, different, "it would not be the same as in the original")


def hold_tables(connection: Connection, schema: SchemaName) -> None:
    """Keep tables from being altered until the end of the transaction."""
    names = connection.execute(text(_sql_cloning.TABLE_NAMES), {"schema": schema}).scalars().all()
    if names:
        run_script(connection, [_sql_cloning.lock_tables(schema, names)])


def locks_of(connection: Connection, schema: str) -> tuple[int, int]:
    """Return about how many locks it takes to read a schema, and to make it."""
    row = connection.execute(text(_sql_cloning.LOCKS), {"schema": schema}).first()
    return (0, 0) if row is None else (row[0], row[1])


def refuse_too_many_locks(connection: Connection, schema: str, needed: int) -> None:
    """Raise `TooManyLocks` if the server's table has no room for so many."""
    setting, connections = connection.execute(text(_sql_cloning.LOCK_ROOM)).one()
    if needed > setting * connections:
        wanted = -(-needed // connections)
        wanted += -wanted % _LOCKS_STEP
        raise TooManyLocks(schema, needed, setting * connections, wanted)


def refuse_hidden_rows(
    connection: Connection, schema: SchemaName, tables: Sequence[TableRows]
) -> None:
    """Raise `PermissionDenied` if row security would hide rows from this role."""
    hidden = [table.name for table in tables if table.is_row_security_active]
    if hidden:
        role = connection.exec_driver_sql(_sql_cloning.CURRENT_ROLE).scalar_one()
        raise PermissionDenied(
            f'row security hides rows of {", ".join(hidden)} in the schema "{schema}" '
            f"from the role {role}",
            _sql_cloning.allow_to_bypass(role),
        )


def read_sequences(
    connection: Connection, schema: SchemaName, names: Sequence[str]
) -> Iterator[tuple[str, int, bool]]:
    """Yield where sequences stand: name, last value, and whether it was given out."""
    for start in range(0, len(names), _SEQUENCES_AT_ONCE):
        some = names[start : start + _SEQUENCES_AT_ONCE]
        query = _sql_cloning.sequence_values(schema, some)
        options = {"no_parameters": True}
        for row in connection.exec_driver_sql(query, execution_options=options).all():
            yield tuple(row)


def _oid(connection: Connection, schema: SchemaName) -> int:
    query = text(_sql_blueprint_rest.SCHEMA_OID)
    oid: int = connection.execute(query, {"schema": schema}).scalar_one()
    return oid

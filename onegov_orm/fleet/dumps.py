"""Writes one schema to a file, and makes a schema from such a file, also on another database.

No superuser is needed, and no program besides. A dump holds statements that are executed when
it is restored: it has to be trusted like a script.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from onegov_orm import _sql
from onegov_orm._marking import read_mark, write_mark
from onegov_orm._version import library_version
from onegov_orm.errors import CopyFailed, DumpDamaged, SchemaExists
from onegov_orm.fleet import _sql_cloning
from onegov_orm.fleet._blueprint_making import (
    make,
    make_owners,
    make_privileges,
    naming,
    set_sequences,
)
from onegov_orm.fleet._blueprint_mentions import refuse_mentions
from onegov_orm.fleet._blueprint_prelude import work_in
from onegov_orm.fleet._dump_archive import (
    DumpReader,
    DumpWriter,
    File,
    member_of,
    reading,
    writing,
)
from onegov_orm.fleet._dump_copy import copy_in, copy_out
from onegov_orm.fleet._dump_manifest import DumpedTable, Manifest
from onegov_orm.fleet.blueprint import Blueprint, read_blueprint
from onegov_orm.fleet.cloning import (
    check_copy,
    guarded,
    hold_tables,
    locks_of,
    read_sequences,
    refuse_hidden_rows,
    refuse_too_many_locks,
)
from onegov_orm.fleet.fingerprints import fingerprints
from onegov_orm.marks import Mark
from onegov_orm.names import SchemaName
from onegov_orm.provisioning import Provisioner, create_schema, schema_exists

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext

#: By how much the server's version number grows from one to the next.
_MAJOR: Final = 10_000


def dump(context: FleetContext, schema: str, file: File) -> None:
    """Write a schema to a file: a path, or a binary file to write to.

    What is written is the schema at one moment; it can be used meanwhile. At a path, nothing
    is seen before all of it is there. Raises `SchemaNotFound`, `ForeignSchema`,
    `UncloneableObject` and `PermissionDenied`.
    """
    name = context.manager.parse_schema(schema)
    with (
        guarded(context, name),
        context.connected(isolation_level="REPEATABLE READ") as connection,
        connection.begin(),
    ):
        connection.exec_driver_sql(_sql.SET_READ_ONLY)
        mark = read_mark(connection, name)
        reading_locks, making_locks = locks_of(connection, name)
        refuse_too_many_locks(connection, name, reading_locks)
        hold_tables(connection, name)
        fingerprint = fingerprints(connection, [name])[name]
        blueprint = read_blueprint(connection, name)
        refuse_hidden_rows(connection, name, blueprint.tables)
        with writing(file) as writer:
            _Dumping(connection, name, blueprint, writer).run(mark, fingerprint, making_locks)


class _Dumping:
    """One dump, in the connection's transaction."""

    def __init__(
        self, connection: Connection, schema: SchemaName, blueprint: Blueprint, writer: DumpWriter
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._blueprint = blueprint
        self._writer = writer

    def run(self, mark: Mark, fingerprint: str, locks: int) -> None:
        sequences = read_sequences(self._connection, self._schema, self._blueprint.sequences)
        manifest = Manifest(
            schema=str(self._schema),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            library=library_version(),
            server_version=_server_version(self._connection),
            mark=mark.as_dict(),
            fingerprint=fingerprint,
            locks=locks,
            structure_sha256=self._writer.write_structure(self._blueprint),
            sequences=tuple(sequences),
            tables=tuple(self._write_tables()),
        )
        self._writer.write_manifest(manifest)

    def _write_tables(self) -> list[DumpedTable]:
        written = []
        for number, table in enumerate(self._blueprint.tables):
            sql = _sql_cloning.copy_out(self._schema, table.name, table.column_names)
            with self._writer.rows(number) as tally:
                copy_out(self._connection, sql, tally)
            written.append(DumpedTable(table.name, member_of(number), tally.rows, tally.sha256))
        return written


def restore(context: FleetContext, file: File, schema: str | None = None) -> str:
    """Make a schema from a file that `dump` wrote; return its name.

    By default it gets the name that it had. Missing extensions are made first; all the rest is
    made in one transaction. Raises `DumpDamaged`, `SchemaExists`, `PointsBack`,
    `ExtensionUnavailable`, `PermissionDenied` and `CopyFailed`; nothing is left then.
    """
    with reading(file) as reader:
        blueprint = reader.read_structure()
        manifest = reader.manifest
        name = context.manager.parse_schema(manifest.schema if schema is None else schema)
        if name != manifest.schema:
            refuse_mentions(blueprint)
        _ensure_extensions(context, blueprint)
        with (
            guarded(context, name),
            context.connected() as connection,
            connection.begin(),
        ):
            _Restoring(connection, name, blueprint, reader).run()
    context.manager.provisioner.forget(name)
    return str(name)


class _Restoring:
    """One schema that is made from a dump, in the connection's transaction."""

    def __init__(
        self, connection: Connection, schema: SchemaName, blueprint: Blueprint, reader: DumpReader
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._blueprint = blueprint
        self._reader = reader
        self._server_version = _server_version(connection)

    def run(self) -> None:
        connection, schema = self._connection, self._schema
        if schema_exists(connection, schema):
            raise SchemaExists(schema)
        refuse_too_many_locks(connection, schema, self._reader.manifest.locks)
        create_schema(connection, schema)
        work_in(connection, schema)
        try:
            is_faithful = self._make()
        except CopyFailed as exc:
            raise self._explained(exc) from exc
        manifest = self._reader.manifest
        note = f"restored from a dump of {manifest.schema}, made {manifest.created}"
        write_mark(connection, schema, Mark.new(note=note))
        self._check(is_faithful)

    def _make(self) -> bool:
        """Make all of it; tell whether the privileges and owners are those of the original."""
        connection, schema, blueprint = self._connection, self._schema, self._blueprint
        make(connection, schema, blueprint.before)
        self._read_rows()
        make(connection, schema, blueprint.after)
        set_sequences(connection, schema, self._reader.manifest.sequences)
        has_privileges = make_privileges(connection, schema, blueprint)
        return make_owners(connection, schema, blueprint) and has_privileges

    def _read_rows(self) -> None:
        tables = {table.name: table for table in self._blueprint.tables}
        for dumped in self._reader.manifest.tables:
            table = tables[dumped.name]
            sql = _sql_cloning.copy_in(self._schema, table.into, table.column_names)
            with (
                naming(self._schema, f"rows of table {table.name}"),
                self._reader.rows(dumped) as tally,
            ):
                copy_in(self._connection, sql, tally)

    def _check(self, is_faithful: bool) -> None:
        """Compare with the original; each version of the server has words of its own."""
        manifest = self._reader.manifest
        if self._server_version // _MAJOR != manifest.server_version // _MAJOR:
            return
        check_copy(self._connection, self._schema, self._blueprint)
        found = fingerprints(self._connection, [self._schema])[self._schema]
        if is_faithful and found != manifest.fingerprint:
            raise DumpDamaged("what was restored is not what was dumped, by its fingerprint")

    def _explained(self, error: CopyFailed) -> CopyFailed:
        """Return the error with the reason that is likely on an older server."""
        dumped, own = (
            self._reader.manifest.server_version // _MAJOR,
            self._server_version // _MAJOR,
        )
        if own >= dumped:
            return error
        reason = f"{error.reason}. The dump is of PostgreSQL {dumped}, this server is {own}"
        return CopyFailed(error.schema, error.what, reason)


def _ensure_extensions(context: FleetContext, blueprint: Blueprint) -> None:
    """Make sure of the extensions that the schema needs, as for a new customer."""
    manager = context.manager
    own = manager.provisioner
    needed = {name for name, _ in blueprint.extensions}
    provisioner = Provisioner(
        manager.bases, needed, manager.signals, own.extensions_schema, own.shared_schema
    )
    with context.connected() as connection:
        provisioner.ensure_extensions(connection)


def _server_version(connection: Connection) -> int:
    return int(connection.exec_driver_sql(_sql.SERVER_VERSION).scalar_one())

"""What plain ``alembic -x schema=...`` does: everything that Alembic can, in one schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alembic.util import CommandError
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from onegov_orm import _sql
from onegov_orm._engine import parse_dsn
from onegov_orm.errors import SchemaNotFound
from onegov_orm.fleet import _sql_migrations
from onegov_orm.fleet._migration_job import comparing, unbound
from onegov_orm.fleet._migration_live import note_migration, watch_autocommit
from onegov_orm.fleet.runner import one_line
from onegov_orm.provisioning import lock_key, schema_exists, sqlstate

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.names import SchemaName

_LOCK_TIMEOUT = "60s"
_LOCK_NOT_AVAILABLE = "55P03"


def migrate_one(
    context: Any,
    schema: SchemaName,
    dsn: str,
    extensions_schema: str,
    options: Mapping[str, Any],
) -> None:
    """Do what Alembic was asked for, in the schema, under its lock, in one transaction."""
    # The path is set while connecting: SQLAlchemy asks for the default schema but once.
    path = _sql.search_path((schema, _sql.NEUTRAL_PATH, extensions_schema))
    settings = _sql.startup_options({"search_path": path, "lock_timeout": _LOCK_TIMEOUT})
    engine = create_engine(parse_dsn(dsn), poolclass=NullPool, connect_args={"options": settings})
    with engine.connect() as connection:
        if not schema_exists(connection, schema):
            raise CommandError(str(SchemaNotFound(schema)))
        _lock(connection, schema)
        tables = set(connection.scalars(text(_sql_migrations.TABLES), {"schema": schema}))
        connection.commit()
        _run(context, connection, schema, comparing(unbound(dict(options)), tables))


def write_script(
    context: Any, schema: SchemaName, extensions_schema: str, options: Mapping[str, Any]
) -> None:
    """Print what would be run."""
    context.configure(dialect_name="postgresql", **{**options, "literal_binds": True})
    with context.begin_transaction():
        context.execute(_sql.set_local_search_path((schema, _sql.NEUTRAL_PATH, extensions_schema)))
        context.execute(_sql_migrations.lock(lock_key(f"schema {schema}")))
        context.run_migrations()


def _run(
    context: Any, connection: Connection, schema: SchemaName, options: dict[str, Any]
) -> None:
    changes: list[Any] = []

    def on_version_apply(**arguments: Any) -> None:
        changes.append(arguments)

    given = options.get("on_version_apply") or ()
    hooks = [given] if callable(given) else list(given)
    context.configure(
        connection=connection, **{**options, "on_version_apply": [*hooks, on_version_apply]}
    )
    watch_autocommit(context.get_context(), schema)
    with context.begin_transaction():
        context.run_migrations()
        if changes:
            note_migration(connection, schema)


def _lock(connection: Connection, schema: SchemaName) -> None:
    try:
        key = {"key": lock_key(f"schema {schema}")}
        connection.execute(text(_sql_migrations.SESSION_LOCK), key)
    except Exception as exc:
        if sqlstate(exc) != _LOCK_NOT_AVAILABLE:  # type: ignore[arg-type]
            raise
        raise CommandError(
            f'somebody else works in the schema "{schema}": {one_line(exc)}'
        ) from exc

"""Writes new revisions: what the models have and a reference schema lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from sqlalchemy import text

from onegov_orm.fleet import _sql_migrations
from onegov_orm.fleet._migration_job import ATTRIBUTE, ConnectedJob, OptionsJob
from onegov_orm.fleet._migration_live import LiveWorker
from onegov_orm.fleet._migration_plans import Goal
from onegov_orm.fleet._migration_scripts import (
    ALEMBIC,
    Direction,
    Scripts,
    configuration,
    translated,
)
from onegov_orm.fleet.runner import DEFAULT_OPTIONS, Skipped
from onegov_orm.names import SchemaName, hidden_schema
from onegov_orm.provisioning import create_schema

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext


def write_revision(
    context: FleetContext,
    folder: Path,
    message: str,
    schema: str | None,
    options: Mapping[str, Any],
) -> list[Path]:
    """Write a revision, and return its files; raises `MigrationError`."""
    scripts = Scripts(folder)
    # A mistake in env.py shows before anything is made.
    scripts.options  # noqa: B018
    wanted = {"autogenerate": True, **options}
    if not wanted["autogenerate"]:
        return _write(folder, OptionsJob(), message, wanted)
    with _reference(context, scripts, schema) as name, context.connected(name) as connection:
        tables = _tables(connection, name)
        return _write(folder, ConnectedJob(connection, tables), message, wanted)


def _write(folder: Path, job: Any, message: str, options: Mapping[str, Any]) -> list[Path]:
    config = configuration(folder)
    config.attributes[ATTRIBUTE] = job
    with ALEMBIC, translated():
        written: Any = command.revision(config, message, **options)
    scripts = written if isinstance(written, list) else [written]
    return [Path(script.path) for script in scripts if script is not None]


def _tables(connection: Connection, schema: str) -> set[str]:
    with connection.begin():
        return set(connection.scalars(text(_sql_migrations.TABLES), {"schema": schema}))


@contextmanager
def _reference(
    context: FleetContext, scripts: Scripts, schema: str | None
) -> Iterator[SchemaName]:
    """Give the schema to compare the models with: a customer's, or one made for the block."""
    if schema is not None:
        yield context.customer(schema).schema
        return
    name = hidden_schema("scratch")
    context.manager.create_required_extensions()
    with context.connected(name) as connection, connection.begin():
        create_schema(connection, name)
    try:
        goal = Goal(Direction.UPGRADE, "heads")
        with suppress(Skipped):
            timeout = DEFAULT_OPTIONS.lock_timeout_seconds
            LiveWorker(context, scripts, goal, timeout).work(name)
        yield name
    finally:
        with context.connected() as connection, connection.begin():
            connection.exec_driver_sql(_sql_migrations.drop_schema(name))

"""Alembic environments: ours, and the one that Alembic's documentation describes.

The documentation's recipe (Rudimental Schema-Level Multi Tenancy for PostgreSQL Databases) sets
the search path in env.py, to the one schema that was named. With a loop around it, it does all
schemas in one run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.fleet_models import alembic_revision, revision_name

_OURS: Final = """\
from alembic import context

from benchmarks.fleet_models import base_of
from onegov_orm.fleet import env

env.run(context, target_metadata=base_of({revisions}).metadata)
"""

_RECIPE: Final = """\
import json
from time import perf_counter

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from benchmarks.fleet_models import base_of

metadata = base_of({revisions}).metadata
started = perf_counter()


def schemas(connection):
    chosen = context.get_x_argument(as_dictionary=True).get("tenant")
    if chosen:
        return [chosen]
    sql = "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, 'fleet-') ORDER BY nspname"
    return connection.scalars(text(sql)).all()


engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=NullPool)

with engine.connect() as connection:
    for schema in schemas(connection):
        connection.execute(text(f'SET search_path TO "{{schema}}"'))
        connection.commit()
        connection.dialect.default_schema_name = schema
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            context.run_migrations()

print(json.dumps({{"seconds": perf_counter() - started}}))
"""

_INI: Final = """\
[alembic]
script_location = {folder}
sqlalchemy.url = {dsn}
"""


def write_our_environment(directory: Path, revisions: int) -> Path:
    """Write an environment for `Fleet.migrate`, and return its folder."""
    folder = directory / f"ours_{revisions}" / "migrations"
    _write(folder, _OURS, revisions)
    return folder


def write_recipe(directory: Path, revisions: int, dsn: str) -> Path:
    """Write the environment of Alembic's documentation, and return its configuration file."""
    folder = directory / f"recipe_{revisions}" / "migrations"
    _write(folder, _RECIPE, revisions)
    ini = folder.parent / "alembic.ini"
    ini.write_text(_INI.format(folder=folder, dsn=dsn.replace("%", "%%")))
    return ini


def _write(folder: Path, env: str, revisions: int) -> None:
    versions = folder / "versions"
    versions.mkdir(parents=True)
    (folder / "env.py").write_text(env.format(revisions=revisions))
    for number in range(1, revisions + 1):
        (versions / f"{revision_name(number)}.py").write_text(alembic_revision(number))

"""Runs the migrations of the example's models in the schema of one customer.

::

    python -m alembic -x schema=towns-bern -x dsn=postgresql://localhost/towns upgrade head

``-x schema`` is always needed: without it there is nothing sensible to migrate. The database is
named by ``-x dsn``, or by ``sqlalchemy.url`` in ``alembic.ini``. The schema and the extensions
have to exist. Revisions are written without schema names: the search path leads to the schema,
where Alembic keeps its own table too.
"""

from __future__ import annotations

from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from examples.towns.models import Base
from onegov_orm import InvalidSchemaName, SchemaName, SchemaNotFound, _sql
from onegov_orm._engine import parse_dsn
from onegov_orm.names import EXTENSIONS_SCHEMA
from onegov_orm.provisioning import schema_exists

OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "compare_type": True,
    "compare_server_default": True,
}


def chosen_schema() -> SchemaName:
    """Return the schema that the caller asked for."""
    name = context.get_x_argument(as_dictionary=True).get("schema")
    if not name:
        raise CommandError("say which customer is meant: alembic -x schema=towns-bern ...")
    try:
        return SchemaName(name)
    except InvalidSchemaName as exc:
        raise CommandError(str(exc)) from exc


def chosen_dsn() -> str:
    """Return the URL of the database that the caller asked for."""
    dsn = context.get_x_argument(as_dictionary=True).get("dsn")
    dsn = dsn or context.config.get_main_option("sqlalchemy.url")
    if not dsn:
        raise CommandError("say which database is meant: alembic -x dsn=postgresql://host/db ...")
    return dsn


def migrate(schema: SchemaName) -> None:
    """Run the migrations in the schema, in one transaction."""
    # The path is set while connecting: SQLAlchemy asks for the default schema but once.
    path = _sql.search_path((schema, EXTENSIONS_SCHEMA))
    options = _sql.startup_options({"search_path": path})
    engine = create_engine(
        parse_dsn(chosen_dsn()), poolclass=NullPool, connect_args={"options": options}
    )
    with engine.connect() as connection:
        if not schema_exists(connection, schema):
            raise CommandError(str(SchemaNotFound(schema)))
        connection.rollback()
        context.configure(connection=connection, **OPTIONS)
        with context.begin_transaction():
            context.run_migrations()


def write_script(schema: SchemaName) -> None:
    """Print what would be run."""
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.execute(_sql.set_local_search_path((schema, EXTENSIONS_SCHEMA)))
        context.run_migrations()


if context.is_offline_mode():
    write_script(chosen_schema())
else:
    migrate(chosen_schema())

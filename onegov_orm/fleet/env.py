"""What a ``migrations/env.py`` calls: it runs the migrations in the schema of one customer.

::

    from alembic import context

    from app.models import Base
    from onegov_orm.fleet import env

    env.run(context, target_metadata=Base.metadata)

``alembic -x schema=towns-bern -x dsn=postgresql://host/db upgrade head`` then works as everywhere
else, and `Fleet.migrate` runs the same revisions in all schemas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alembic.util import CommandError

from onegov_orm.errors import OrmError
from onegov_orm.fleet._migration_job import ATTRIBUTE, check_options
from onegov_orm.fleet._migration_single import migrate_one, write_script
from onegov_orm.names import EXTENSIONS_SCHEMA, SchemaName

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def run(
    context: Any,
    *,
    target_metadata: MetaData | Sequence[MetaData] | None = None,
    extensions_schema: str = EXTENSIONS_SCHEMA,
    **options: Any,
) -> None:
    """Run what Alembic was asked for, in one schema; or tell the fleet how it is configured.

    Takes the options of Alembic's ``context.configure``. Raises Alembic's ``CommandError`` where
    the schema or the database is not named as it has to be.
    """
    try:
        configured = check_options({"target_metadata": target_metadata, **options})
        job = context.config.attributes.get(ATTRIBUTE)
        if job is not None:
            job.configure(context, configured)
            return
        schema = _chosen_schema(context)
        if context.is_offline_mode():
            write_script(context, schema, extensions_schema, configured)
        else:
            migrate_one(context, schema, _chosen_dsn(context), extensions_schema, configured)
    except OrmError as exc:
        raise CommandError(str(exc)) from exc


def _chosen_schema(context: Any) -> SchemaName:
    name = context.get_x_argument(as_dictionary=True).get("schema")
    if not name:
        raise CommandError("say which customer is meant: alembic -x schema=towns-bern ...")
    return SchemaName(name)


def _chosen_dsn(context: Any) -> str:
    dsn = context.get_x_argument(as_dictionary=True).get("dsn")
    dsn = dsn or context.config.get_main_option("sqlalchemy.url")
    if not dsn:
        raise CommandError("say which database is meant: alembic -x dsn=postgresql://host/db ...")
    return str(dsn)

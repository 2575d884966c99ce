"""Writes down what a migration would send in one schema, and sends nothing."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext

from onegov_orm import _sql
from onegov_orm.errors import MigrationError
from onegov_orm.fleet._migration_plans import Goal, Move, Planner
from onegov_orm.fleet._migration_scripts import ALEMBIC, Scripts, configuration, translated
from onegov_orm.provisioning import lock_key

if TYPE_CHECKING:
    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.fleet._versions import Standing
    from onegov_orm.names import SchemaName


def dry_run(
    context: FleetContext, scripts: Scripts, goal: Goal, schema: SchemaName, standing: Standing
) -> str:
    """Return the SQL of a migration; raises `MigrationError` if it can't be known.

    It can be run as it is, except for the date in the schema's mark.
    """
    scripts.check_target(goal.direction, goal.target)
    with context.connected() as connection:
        dialect = connection.dialect
    move = Planner(scripts, goal, dialect, replay=True).move(standing.versions)
    if move.is_nothing:
        return ""
    path = (schema, context.manager.provisioner.extensions_schema)
    if move.recorded is None:
        return _offline(scripts, goal, schema, move, path)
    lines = [f"{_sql.BEGIN};", f"{_sql.set_local_search_path(path)};"]
    key = lock_key(f"schema {schema}")
    for revision, message in zip(
        move.revisions or ("",), move.messages(schema, standing, key), strict=True
    ):
        lines += [f"-- {revision}"] if revision else []
        lines += [_ended(statement) for statement in message]
    return "\n\n".join([*lines, f"{_sql.COMMIT};"]) + "\n"


def _offline(
    scripts: Scripts, goal: Goal, schema: SchemaName, move: Move, path: tuple[str, ...]
) -> str:
    """Return what Alembic writes for revisions that it has to run itself."""
    output = StringIO()
    environment = EnvironmentContext(
        configuration(scripts.folder, schema=str(schema)),
        scripts.directory,
        fn=lambda heads, _: scripts.steps(goal.direction, goal.target, heads),
        as_sql=True,
        starting_rev=tuple(sorted(move.start)) or None,
        output_buffer=output,
    )
    options = {
        **scripts.options,
        "dialect_name": "postgresql",
        "literal_binds": True,
        "version_table_schema": str(schema),
    }
    with ALEMBIC, translated(), environment:
        try:
            environment.configure(**options)
            with environment.begin_transaction():
                environment.execute(_sql.set_local_search_path(path))
                with Operations.context(environment.get_context()):
                    environment.get_context().run_migrations()
        except Exception as exc:
            raise MigrationError(
                f"what {', '.join(move.revisions)} would send can't be known without running "
                f"it ({move.reason}): {type(exc).__name__}: {exc}"
            ) from exc
    return output.getvalue()


def _ended(statement: str) -> str:
    """Return a statement with its semicolon, which must not become part of a comment."""
    return f"{statement}\n;" if "--" in statement.splitlines()[-1] else f"{statement};"

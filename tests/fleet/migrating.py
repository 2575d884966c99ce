"""What the tests of migrations have in common: environments, schemas, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column

from onegov_orm import SessionManager
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.migrations import Migrations
from tests.provisioning import base_of

ENV = """
from alembic import context
from onegov_orm.fleet import env

env.run(context{options})
"""

REVISION = '''"""A revision."""
import sqlalchemy as sa
from alembic import op
{imports}

revision = {revision!r}
down_revision = {down!r}
branch_labels = {label!r}
depends_on = {depends_on!r}


def upgrade():
{upgrade}


def downgrade():
{downgrade}
'''


class Environment:
    """An Alembic environment that a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "versions").mkdir(parents=True)
        (folder / "script.py.mako").write_text(
            "revision = ${repr(up_revision)}\ndown_revision = ${repr(down_revision)}\n"
            "branch_labels = ${repr(branch_labels)}\n"
            "import sqlalchemy as sa\nfrom alembic import op\n"
            "def upgrade():\n    ${upgrades if upgrades else 'pass'}\n"
            "def downgrade():\n    ${downgrades if downgrades else 'pass'}\n"
        )
        self.configure()

    def configure(self, options: str = "", imports: str = "") -> None:
        """Write env.py."""
        (self.folder / "env.py").write_text(imports + ENV.format(options=options))

    def add(
        self,
        revision: str,
        down: Any,
        upgrade: str = "pass",
        downgrade: str = "pass",
        *,
        imports: str = "",
        label: str | None = None,
        depends_on: Any = None,
    ) -> None:
        """Write a revision."""
        text = REVISION.format(
            imports=imports,
            revision=revision,
            down=down,
            label=label,
            depends_on=depends_on,
            upgrade=indent(dedent(upgrade).strip(), "    "),
            downgrade=indent(dedent(downgrade).strip(), "    "),
        )
        (self.folder / "versions" / f"{revision}.py").write_text(text)


def residents_base() -> Any:
    """Return a base with one table, whose rows tell whose they are."""
    return base_of(("residents", Column("owner", sa.Text), Column("age", sa.Integer)))


class Towns:
    """A small fleet: each schema has a resident who carries its name."""

    def __init__(
        self, dsn: str, new_manager: Callable[..., SessionManager], execute: Any, folder: Path
    ) -> None:
        self.dsn = dsn
        self.execute = execute
        self.environment = Environment(folder)
        self.manager = new_manager(dsn, residents_base())
        self.context = FleetContext(self.manager)
        self.migrations = Migrations(self.context, folder)

    def create(self, *schemas: str) -> None:
        """Make schemas that are at base."""
        for schema in schemas:
            self.manager.ensure_schema_exists(schema)
            self.execute(f"""INSERT INTO "{schema}".residents (owner) VALUES ('{schema}')""")

    def versions(self, schema: str) -> list[str]:
        """Return the versions of a schema."""
        rows = self.execute(f'SELECT version_num FROM "{schema}".alembic_version ORDER BY 1')
        return [version for (version,) in rows]

    def column(self, schema: str, column: str) -> list[Any]:
        """Return what the residents of a schema have in a column."""
        rows = self.execute(f'SELECT "{column}" FROM "{schema}".residents ORDER BY id')
        return [value for (value,) in rows]

    def columns(self, schema: str, table: str = "residents") -> set[str]:
        """Return the columns of a table."""
        rows = self.execute(
            "SELECT attname::text FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
            f""" WHERE relnamespace = '"{schema}"'::regnamespace AND relname = '{table}'"""
            " AND attnum > 0 AND NOT attisdropped"
        )
        return {name for (name,) in rows}


def outcomes(report: Any) -> dict[str, str]:
    """Return how each schema ended."""
    return {result.schema: result.outcome.value for result in report.results}


def names(count: int) -> Iterable[str]:
    """Return names of schemas."""
    return [f"towns-{number:02}" for number in range(count)]

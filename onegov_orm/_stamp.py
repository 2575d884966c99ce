"""Notes in a new schema that it is at the newest revision of the migrations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, String, Table
from sqlalchemy.schema import CreateTable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.names import SchemaName

#: Alembic's own table, as Alembic makes it.
_VERSIONS: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


class RevisionStamp:
    """Stamps a new schema with the heads of an Alembic environment.

    Alembic is loaded, and its scripts are read, when the first schema is made.
    """

    def __init__(self, migrations: str | os.PathLike[str]) -> None:
        self._migrations = migrations
        self._known_heads: list[str] | None = None

    def __call__(self, connection: Connection, schema: SchemaName) -> None:
        """Write the heads into Alembic's table."""
        connection.execute(CreateTable(_VERSIONS, if_not_exists=True))
        connection.execute(_VERSIONS.delete())
        if self._heads:
            connection.execute(_VERSIONS.insert(), [{"version_num": head} for head in self._heads])

    def identity(self) -> str:
        """Return the heads."""
        return " ".join(sorted(self._heads))

    @property
    def _heads(self) -> list[str]:
        if self._known_heads is None:
            self._known_heads = _read_heads(self._migrations)
        return self._known_heads


def _read_heads(migrations: str | os.PathLike[str]) -> list[str]:
    # Alembic costs time and memory that only those who make new schemas have to pay.
    from alembic.script import ScriptDirectory

    return list(ScriptDirectory(os.fspath(migrations)).get_heads())

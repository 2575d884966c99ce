"""Notes in a new schema that it is at the newest revision of the migrations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, String, Table
from sqlalchemy.schema import CreateTable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.names import SchemaName
    from onegov_orm.provisioning import Stamp

#: Alembic's own table, as Alembic makes it.
_VERSIONS: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def revision_stamp(migrations: str | os.PathLike[str]) -> Stamp:
    """Return what stamps a new schema with the heads of an Alembic environment.

    Alembic is loaded, and its scripts are read, when the first schema is made.
    """
    heads: list[str] | None = None

    def stamp(connection: Connection, schema: SchemaName) -> None:
        nonlocal heads
        if heads is None:
            heads = _read_heads(migrations)
        connection.execute(CreateTable(_VERSIONS, if_not_exists=True))
        connection.execute(_VERSIONS.delete())
        if heads:
            connection.execute(_VERSIONS.insert(), [{"version_num": head} for head in heads])

    return stamp


def _read_heads(migrations: str | os.PathLike[str]) -> list[str]:
    # Alembic costs time and memory that only those who make new schemas have to pay.
    from alembic.script import ScriptDirectory

    return list(ScriptDirectory(os.fspath(migrations)).get_heads())

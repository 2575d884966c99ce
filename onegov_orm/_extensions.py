"""What the server says about its extensions, and which package brings one that it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onegov_orm import _sql
from onegov_orm.errors import ExtensionUnavailable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

#: Debian's packages of extensions that are not part of PostgreSQL's own.
_PACKAGES: Final = {
    "postgis": "postgresql-{version}-postgis-3",
    "vector": "postgresql-{version}-pgvector",
    "pg_cron": "postgresql-{version}-cron",
    "pgaudit": "postgresql-{version}-pgaudit",
    "pg_partman": "postgresql-{version}-partman",
    "hypopg": "postgresql-{version}-hypopg",
    "plpython3u": "postgresql-plpython3-{version}",
}


@dataclass(frozen=True, slots=True)
class Extension:
    """What the server says about an extension: a row that `_sql.EXTENSIONS` yields."""

    name: str
    found_in: str | None
    is_available: bool
    is_usable: bool | None
    can_create_schemas: bool


def unavailable(connection: Connection, extension: str) -> ExtensionUnavailable:
    """Return the error of an extension that is not on the server's machine."""
    number = int(connection.exec_driver_sql(_sql.SERVER_VERSION).scalar_one())
    version = number // 10_000
    package = _PACKAGES.get(extension, "postgresql-{version}").format(version=version)
    return ExtensionUnavailable(extension, version, package)

"""What figures depend on, apart from the server."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Final

PACKAGES: Final = ("SQLAlchemy", "psycopg2-binary", "psycopg2", "psycopg", "asyncpg")
FLEET_PACKAGES: Final = (
    "SQLAlchemy",
    "alembic",
    "psycopg2-binary",
    "psycopg2",
    "Django",
    "django-tenants",
    "psycopg",
)


def environment(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of packages, and the number of processors."""
    found = {"Python": platform.python_version(), "processors": str(os.cpu_count())}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

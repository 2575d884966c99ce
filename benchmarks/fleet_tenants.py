"""A project for django-tenants with the same tables and as many migrations; needs ``bench``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psycopg2
from sqlalchemy.engine import make_url

from benchmarks.databases import run
from benchmarks.fleet_models import (
    REVISIONS,
    base_of,
    django_migration,
    django_models,
    revision_name,
)
from benchmarks.fleet_processes import Usage, run_program

#: The schema that Django's own migrations make; the others are made like it.
FIRST: Final = "fleet_first"

_SETTINGS: Final = """\
DATABASES = {{"default": {database!r}}}
SECRET_KEY = "benchmark"
INSTALLED_APPS = ["django_tenants", "django.contrib.contenttypes", "customers", "records"]
SHARED_APPS = ["django_tenants", "django.contrib.contenttypes", "customers"]
TENANT_APPS = ["records"]
TENANT_MODEL = "customers.Client"
TENANT_DOMAIN_MODEL = "customers.Domain"
DATABASE_ROUTERS = ("django_tenants.routers.TenantSyncRouter",)
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
TENANT_MULTIPROCESSING_MAX_PROCESSES = {workers}
"""

_CUSTOMERS: Final = """\
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):
    name = models.CharField(max_length=100, default="")


class Domain(DomainMixin):
    pass
"""

_SQLMIGRATE: Final = """\
import django
from django.core.management import call_command
from django.db import connection

django.setup()
connection.set_schema({first!r})
for number in range(1, {revisions} + 1):
    call_command("sqlmigrate", "records", f"{{number:04}}")
"""


class Project:
    """A Django project in a directory of its own, with so many migrations."""

    def __init__(self, directory: Path, dsn: str, revisions: int, workers: int) -> None:
        self.directory = directory
        self.revisions = revisions
        self._dsn = dsn
        self._write(workers)

    def manage(self, *arguments: str) -> Usage:
        """Run a command of Django's."""
        return self.run("-m", "django", *arguments)

    def run(self, *arguments: str) -> Usage:
        """Run Python inside of the project."""
        return run_program(
            [sys.executable, *arguments], self.directory, {"DJANGO_SETTINGS_MODULE": "settings"}
        )

    def create_first(self) -> None:
        """Make what all tenants share, and have Django's migrations make one schema."""
        self.manage("migrate_schemas", "--shared", "--verbosity=0")
        run(self._dsn, f"CREATE SCHEMA {FIRST}", _register([FIRST]))
        self.manage("migrate_schemas", f"--schema={FIRST}", "--verbosity=0")
        # From now on it is nobody's, so that it stays as it is.
        run(self._dsn, f"DELETE FROM public.customers_client WHERE schema_name = '{FIRST}'")

    def script(self) -> str:
        """Return the SQL of all migrations, as Django prints it."""
        return self.run("-c", self._printing()).output

    def _printing(self) -> str:
        return _SQLMIGRATE.format(first=FIRST, revisions=self.revisions)

    def _write(self, workers: int) -> None:
        migrations = self.directory / "records" / "migrations"
        customers = self.directory / "customers"
        for folder in (migrations, customers / "migrations"):
            folder.mkdir(parents=True)
            for package in (folder, folder.parent):
                (package / "__init__.py").touch()
        settings = _SETTINGS.format(database=_address(self._dsn), workers=workers)
        (self.directory / "settings.py").write_text(settings)
        (customers / "models.py").write_text(_CUSTOMERS)
        (migrations.parent / "models.py").write_text(django_models(self.revisions))
        for number in range(1, self.revisions + 1):
            (migrations / f"{revision_name(number)}.py").write_text(django_migration(number))
        self.manage("makemigrations", "customers", "--verbosity=0")


def create_tenants(dsn: str, script: str, schemas: Sequence[str]) -> None:
    """Make schemas like the first one, by sending the SQL that Django would have sent."""
    history = "django_migrations"
    for schema in schemas:
        run(
            dsn,
            f'CREATE SCHEMA "{schema}"; SET search_path TO "{schema}"; {script};'
            f"CREATE TABLE {history} (LIKE {FIRST}.{history} INCLUDING ALL);"
            f"INSERT INTO {history} (app, name, applied)"
            f"SELECT app, name, applied FROM {FIRST}.{history} ORDER BY id;"
            f"{_register([schema])}",
        )


def tables_and_indexes(dsn: str, schema: str) -> set[tuple[str, int, int]]:
    """Return the application's tables in a schema, with how many columns and indexes each has."""
    names = sorted(base_of(REVISIONS).metadata.tables)
    sql = """
        SELECT relname, relnatts, (SELECT count(*) FROM pg_index WHERE indrelid = pg_class.oid)
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = %s AND relname = ANY (%s)"""
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, (schema, names))
            return set(cursor.fetchall())
    finally:
        connection.close()


def _register(schemas: Sequence[str]) -> str:
    values = ", ".join(f"('{schema}', '')" for schema in schemas)
    return f"INSERT INTO public.customers_client (schema_name, name) VALUES {values}"


def _address(dsn: str) -> dict[str, Any]:
    url = make_url(dsn)
    return {
        "ENGINE": "django_tenants.postgresql_backend",
        "NAME": url.database,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.host or url.query.get("host", ""),
        "PORT": str(url.port or url.query.get("port", "")),
    }

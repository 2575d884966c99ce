"""django-tenants as a contestant, compared with bare Django; needs the extra ``bench``.

Django takes its settings once for a process, so that all its contestants are databases of
one configuration. It works with psycopg 3 where that is installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, Final

from sqlalchemy.engine import make_url

from benchmarks.contestants import Contestant, OneByOne, Request

DJANGO: Final = "bare Django"
TENANTS: Final = "django-tenants"
LIMITED: Final = "django-tenants, limited SET calls"

_BACKENDS: Final = {
    "default": (DJANGO, "django.db.backends.postgresql"),
    "tenants": (TENANTS, "django_tenants.postgresql_backend"),
    "limited": (LIMITED, "django_tenants.postgresql_backend"),
}


def is_available() -> bool:
    """Tell whether Django and django-tenants are installed."""
    return all(importlib.util.find_spec(name) for name in ("django", "django_tenants"))


def django_field(dsn: str, schemas: Sequence[str]) -> list[Contestant]:
    """Return Django's contestants; bare Django has the first schema."""
    _configure()
    connections = importlib.import_module("django.db").connections
    for alias in _BACKENDS:
        connections[alias].close()
        connections[alias].settings_dict.update(_address(dsn))
        # Django remembers the parameters of a connection nowhere but here.
        connections[alias].settings_dict["OPTIONS"].update(_options(alias, schemas[0]))
    return [DjangoContestant(alias, name) for alias, (name, _) in _BACKENDS.items()]


@dataclass(frozen=True)
class DjangoContestant(OneByOne):
    """Serves requests with Django's ORM, in one transaction each."""

    alias: str
    name: str
    baseline: str = DJANGO

    def serve(self, request: Request, schema: str, key: int) -> None:
        """Serve one request."""
        database = importlib.import_module("django.db")
        if self.alias != "default":
            database.connections[self.alias].set_schema(schema)
            _limit_set_calls(self.alias == "limited")
        with database.transaction.atomic(using=self.alias):
            self._work(request, key)

    def _work(self, request: Request, key: int) -> None:
        account, entry = _models()
        found = account.objects.using(self.alias).get(pk=key)
        if request.writes:
            found.balance += 1
            found.save(using=self.alias)
            entry.objects.using(self.alias).create(
                account=found, text="a payment", amount=Decimal("12.50")
            )

    def close(self) -> None:
        """Close the connection."""
        importlib.import_module("django.db").connections[self.alias].close()


@cache
def _configure() -> None:
    settings = importlib.import_module("django.conf").settings
    databases = {
        alias: {"ENGINE": backend, "NAME": "postgres", "OPTIONS": {}}
        for alias, (_, backend) in _BACKENDS.items()
    }
    settings.configure(
        DATABASES=databases,
        INSTALLED_APPS=["django.contrib.contenttypes"],
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        TENANT_LIMIT_SET_CALLS=False,
        USE_TZ=True,
    )
    importlib.import_module("django").setup()


@cache
def _models() -> tuple[Any, Any]:
    models = importlib.import_module("django.db.models")

    def meta(table: str) -> type:
        return type("Meta", (), {"db_table": table, "managed": False, "app_label": "benchmarks"})

    common = {"__module__": __name__}
    account = type(
        "Account",
        (models.Model,),
        {
            **common,
            "name": models.TextField(),
            "balance": models.IntegerField(),
            "details": models.JSONField(),
            "Meta": meta("accounts"),
        },
    )
    entry = type(
        "Entry",
        (models.Model,),
        {
            **common,
            "account": models.ForeignKey(account, on_delete=models.CASCADE),
            "text": models.TextField(),
            "amount": models.DecimalField(max_digits=10, decimal_places=2),
            "Meta": meta("entries"),
        },
    )
    return account, entry


def _limit_set_calls(is_limited: bool) -> None:
    importlib.import_module("django.conf").settings.TENANT_LIMIT_SET_CALLS = is_limited


def _address(dsn: str) -> dict[str, Any]:
    url = make_url(dsn)
    return {
        "NAME": url.database,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.host or url.query.get("host", ""),
        "PORT": str(url.port or url.query.get("port", "")),
    }


def _options(alias: str, schema: str) -> dict[str, Any]:
    psycopg = importlib.import_module("django.db.backends.postgresql.psycopg_any")
    options: dict[str, Any] = {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE}
    options |= {"sslmode": "disable", "gssencmode": "disable"}
    if alias == "default":
        options["options"] = f'-c search_path="{schema}"'
    return options

"""What env.py tells: the options that migrations are configured with, the same for all schemas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from onegov_orm.errors import MigrationError
from onegov_orm.fleet._sql_migrations import VERSION_TABLE

#: Where Alembic's configuration carries the job that env.py is run for.
ATTRIBUTE: Final = "onegov_orm"

#: What the library sets for each schema.
_OWNED: Final = {
    "connection": "the connection is made for each schema",
    "url": "the connection is made for each schema",
    "dialect_name": "the connection is made for each schema",
    "version_table_schema": "each schema has a version table of its own",
    "schema": "revisions are written without schema names",
}

#: Tables of the library's own, which no model describes.
_OWN_TABLES: Final = frozenset({VERSION_TABLE, "upgrades"})


class OptionsJob:
    """Notes the options, and does nothing with them."""

    options: dict[str, Any] | None = None

    def configure(self, context: Any, options: dict[str, Any]) -> None:
        """Note the options."""
        self.options = options


class ConnectedJob:
    """Has Alembic do what it was asked for on a connection to a schema with these tables."""

    def __init__(self, connection: Any, tables: set[str]) -> None:
        self._connection = connection
        self._tables = tables

    def configure(self, context: Any, options: dict[str, Any]) -> None:
        """Do it."""
        wanted = unbound(options)
        context.configure(connection=self._connection, **comparing(wanted, self._tables))
        with context.begin_transaction():
            context.run_migrations()


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ``context.configure``; raises `MigrationError`."""
    for name, reason in _OWNED.items():
        if name in options:
            raise MigrationError(f"{name} can't be set in env.py: {reason}")
    if options.get("version_table", VERSION_TABLE) != VERSION_TABLE:
        raise MigrationError(f"version_table can't be set in env.py: it is {VERSION_TABLE}")
    return {"compare_type": True, "compare_server_default": True, **options}


def unbound(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without what is only for scripts that are printed."""
    return {name: value for name, value in options.items() if name != "literal_binds"}


def comparing(options: Mapping[str, Any], tables: set[str] | None) -> dict[str, Any]:
    """Return the options such that only the schema's own tables are compared.

    Left out are tables of the shared schema, of extensions, and of the library itself.
    """
    wanted_object = options.get("include_object")
    wanted_name = options.get("include_name")

    def include_object(thing: Any, name: Any, type_: str, reflected: bool, other: Any) -> bool:
        if type_ == "table" and (thing.schema is not None or name in _OWN_TABLES):
            return False
        return wanted_object is None or bool(wanted_object(thing, name, type_, reflected, other))

    def include_name(name: Any, type_: str, parents: Any) -> bool:
        if type_ == "table" and (name in _OWN_TABLES or (tables and name not in tables)):
            return False
        return wanted_name is None or bool(wanted_name(name, type_, parents))

    hooks: dict[str, Callable[..., bool]] = {
        "include_object": include_object,
        "include_name": include_name,
    }
    return {**options, **hooks}

"""How a connection is set up to write a structure down, and to make one from what was written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from onegov_orm._prelude import Prelude
from onegov_orm.names import SchemaName

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

#: What texts look like, and how they are read, must not depend on who is connected.
_SETTINGS: Final = (
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("array_nulls", "on"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("quote_all_identifiers", "off"),
    ("synchronize_seqscans", "off"),
    ("default_tablespace", ""),
    ("default_table_access_method", "heap"),
    # Functions may be made before what they work on.
    ("check_function_bodies", "off"),
    # A row that is hidden from this role must not be lost: the server refuses instead.
    ("row_security", "off"),
    ("client_min_messages", "warning"),
    # Queries of the catalogs look expensive to the planner, and are not.
    ("jit", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "60s"),
)


@dataclass(frozen=True)
class StructurePrelude(Prelude):
    """Puts one schema on the search path, and no other; not the extensions' either.

    The server then writes all names with their schemas but those of this one. It stands before
    ``pg_catalog``, so that this holds for names too that the server's own objects have.
    """

    @cached_property
    def search_path(self) -> tuple[str, ...]:
        """The schemas that unqualified names are looked up in."""
        return (self.schema, "pg_catalog", "pg_temp")


def work_in(connection: Connection, schema: SchemaName, *, is_read_only: bool = False) -> None:
    """Let what follows on the connection be about the structure of one schema."""
    prelude = StructurePrelude(
        schema, must_exist=False, settings=_SETTINGS, is_read_only=is_read_only
    )
    connection.execution_options(schema=schema, prelude=prelude)

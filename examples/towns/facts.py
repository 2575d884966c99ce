"""Looks at the database without the library: is everything where it belongs, and nowhere else.

The connection is plain SQLAlchemy, and each statement names the schema that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Select, func, inspect, select, text

from .index import TownIndex
from .models import Base, Booking, Entry


@dataclass(frozen=True)
class TownFacts:
    """What stands in the schema of a town."""

    town: str
    rows: dict[str, int]
    foreign_rows: int
    index: TownIndex


def version_of(engine: Engine) -> str:
    """Return the version of the server."""
    with engine.connect() as connection:
        return str(connection.scalar(text("SHOW server_version"))).split()[0]


def look_at(engine: Engine, towns: list[str]) -> list[TownFacts]:
    """Return the facts about the towns."""
    with engine.connect() as connection:
        return [look_at_town(connection, town) for town in towns]


def look_at_town(connection: Connection, town: str) -> TownFacts:
    """Count the rows, and those of other towns, and index everything anew."""
    # The connection itself keeps the option, until the next town.
    connection.execution_options(schema_translate_map={None: town})
    rows, foreign_rows = {}, 0
    for table in Base.metadata.sorted_tables:
        is_foreign = table.c.town != town
        counts = select(func.count(), func.count().filter(is_foreign)).select_from(table)
        rows[table.name], foreign = connection.execute(counts).one()
        foreign_rows += foreign
    return TownFacts(town, rows, foreign_rows, new_index(connection))


def new_index(connection: Connection) -> TownIndex:
    """Return an index of what the database holds."""
    index = TownIndex()
    texts: dict[type[Entry | Booking], Select[*tuple[Any, ...]]] = {
        Entry: select(Entry.id, Entry.name, Entry.description, Entry.tags),
        Booking: select(Booking.id, Booking.title, Booking.room),
    }
    for model, statement in texts.items():
        for row in connection.execute(statement).mappings():
            index.put((model, (row["id"],), None), model(**row).search_text)
    return index


def tables_outside(engine: Engine) -> list[str]:
    """Return the tables that stand in ``public``, where none should."""
    return inspect(engine).get_table_names(schema="public")

"""Reads the directory of a town from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from onegov_orm import SessionManager

from .models import Category, Entry, Street

DATA = Path(__file__).parent / "data"

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Record = Mapping[str, str]


def import_csv(mgr: SessionManager, town: str, path: Path) -> int:
    """Import a file into a town, all of it or nothing; return the number of entries."""
    with mgr.schema(town) as session:
        directory = Directory(session, town)
        entries = [directory.entry(record) for record in read_records(path)]
        session.add_all(entries)
    return len(entries)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file: semicolons between the fields, UTF-8."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter=";")


class Directory:
    """Makes entries of records; what they share is looked up once."""

    def __init__(self, session: Session, town: str) -> None:
        self._town = town
        self._categories = {row.slug: row for row in session.scalars(select(Category))}
        self._streets = {(row.name, row.postcode): row for row in session.scalars(select(Street))}

    def entry(self, record: Record) -> Entry:
        """Return a new entry; raises `KeyError` for a category that there is not."""
        return Entry(
            town=self._town,
            name=record["name"],
            description=record["description"],
            category=self._categories[record["category"]],
            street=self._street(record),
            house_number=record["house_number"],
            founded=int(record["founded"]) if record["founded"] else None,
            tags=record["tags"].split("|") if record["tags"] else [],
            contact={key: record[key] for key in ("email", "web", "person") if record[key]},
            opening_hours=opening_hours(record["opening_hours"]),
        )

    def _street(self, record: Record) -> Street:
        key = record["street"], record["postcode"]
        if key not in self._streets:
            name, postcode = key
            self._streets[key] = Street(
                town=self._town, name=name, postcode=postcode, locality=record["locality"]
            )
        return self._streets[key]


def opening_hours(text: str) -> dict[str, list[str]]:
    """Return the hours of each day: ``mon-wed 08:00-12:00 13:30-18:30; sat 08:00-16:00``."""
    hours: dict[str, list[str]] = {}
    for part in filter(None, text.split("; ")):
        days, *times = part.split()
        first, _, last = days.partition("-")
        span = slice(WEEKDAYS.index(first), WEEKDAYS.index(last or first) + 1)
        hours |= dict.fromkeys(WEEKDAYS[span], times)
    return hours

"""What the demo does, step by step; each step returns what there is to tell about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from time import perf_counter
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from onegov_orm import ChangeSet, SessionManager

from . import app
from .facts import look_at
from .importer import DATA, Record, import_csv, read_records
from .index import SearchIndex
from .meter import Meter
from .traffic import OPENING, Tally, Visitors, hop, rush

TOWNS = ("towns-bern", "towns-zurich", "towns-govikon")
NEWCOMER = "towns-aarwil"

FIRST_OF_NEWCOMER: Record = {
    "name": "Bäckerei Zürcher",
    "category": "bakery",
    "description": "Das erste Brot von Aarwil.",
    "street": "Dorfstrasse",
    "house_number": "1",
    "postcode": "1998",
    "locality": "Aarwil",
    "founded": "2026",
    "tags": "Brot|Café",
    "email": "info@baeckerei-zuercher.example",
    "web": "",
    "person": "Zoë Zürcher",
    "opening_hours": "tue-sat 06:30-18:30",
}


@dataclass(frozen=True)
class Import:
    """A town that was made, and got its records."""

    town: str
    entries: int
    seconds_to_make: float
    seconds_to_import: float


@dataclass(frozen=True)
class Finding:
    """What a search found in a town: the index, and the database without it."""

    town: str
    words: str
    by_index: list[str]
    by_database: list[str]


@dataclass
class Failure:
    """A request that failed, with bookings and index entries before and after it."""

    town: str
    error: str = ""
    written: int = 0
    commits: int = 0
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Newcomer:
    """A town that was made when it was needed."""

    town: str
    new_extensions: list[str]
    seconds_of_first: float
    seconds_of_next: float
    misspelt: str
    most_similar: str


@dataclass
class Demo:
    """The application, and around it what the demo needs to tell about it."""

    mgr: SessionManager
    index: SearchIndex
    meter: Meter
    #: A connection to the same database that knows nothing of towns.
    outside: Engine
    seed: int = 0
    visitors: list[Visitors] = field(default_factory=list)

    def import_town(self, town: str) -> Import:
        """Make a town from nothing, and import its records."""
        path = DATA / f"{town}.csv"
        start = perf_counter()
        self.mgr.ensure_schema_exists(town)
        made = perf_counter()
        entries = import_csv(self.mgr, town, path)
        imported = perf_counter()
        records = list(read_records(path))
        self.visitors.append(Visitors(town, self.index, records, self.seed))
        return Import(town, entries, made - start, imported - made)

    def hop(self, requests: int) -> Tally:
        """Serve one request after the other, each for another town."""
        return hop(self.mgr, self.visitors, requests, self.meter, self.seed)

    def rush(self, requests: int) -> Tally:
        """Serve all towns at the same time."""
        return rush(self.mgr, self.visitors, requests // len(self.visitors))

    def search(self, words: str) -> list[Finding]:
        """Search for the same in each town."""
        return [
            Finding(
                town,
                words,
                [row.name for row in app.handle(self.mgr, town, app.search, self.index, words)],
                [row.name for row in app.handle(self.mgr, town, app.search_database, words)],
            )
            for town in TOWNS
        ]

    def fail(self, town: str) -> Failure:
        """Book a room three times, the third time when it is taken."""
        failure = Failure(town)
        evening = OPENING - timedelta(days=365)
        booking: dict[str, Any] = {"room": "Gemeindesaal", "title": "Räbeliechtliprobe"}
        app.handle(self.mgr, town, app.book, 1, **booking, starts=[evening])
        failure.before = self._bookings_of(town)
        starts = [evening + timedelta(days=days) for days in (-2, -1, 0)]
        with self._overheard(failure):
            try:
                app.handle(self.mgr, town, app.book, 2, **booking, starts=starts)
            except IntegrityError as error:
                failure.error = str(error.orig).splitlines()[0]
        failure.after = self._bookings_of(town)
        return failure

    def _bookings_of(self, town: str) -> tuple[int, int]:
        [facts] = look_at(self.outside, [town])
        return facts.rows["bookings"], len(self.index.of(town).documents)

    @contextmanager
    def _overheard(self, failure: Failure) -> Iterator[None]:
        """Count what is announced inside the block."""

        def on_insert(town: str, obj: object) -> None:
            failure.written += 1

        def on_commit(town: str, changes: ChangeSet) -> None:
            failure.commits += 1

        with (
            self.mgr.on_insert.connected_to(on_insert, failure.town),
            self.mgr.on_commit.connected_to(on_commit, failure.town),
        ):
            yield

    def welcome(self, town: str, misspelt: str) -> Newcomer:
        """Serve a town that nobody prepared, and that needs one more extension."""
        self.mgr.required_extensions.add("pg_trgm")
        extensions = set(self.mgr.created_extensions)
        start = perf_counter()
        app.handle(self.mgr, town, app.register, FIRST_OF_NEWCOMER)
        first = perf_counter()
        similar = app.handle(self.mgr, town, app.search_similar, misspelt)
        second = perf_counter()
        return Newcomer(
            town,
            sorted(self.mgr.created_extensions - extensions),
            first - start,
            second - first,
            misspelt,
            similar[0].name,
        )

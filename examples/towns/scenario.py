"""What the demo does, step by step; each step returns what there is to be told about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from time import perf_counter
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError

from onegov_orm import ChangeSet, SessionManager

from . import app
from .checks import TownFacts, look_at, tables_outside
from .importer import DATA, Record, import_csv, read_records
from .index import SearchIndex
from .meter import Meter
from .models import Entry
from .traffic import OPENING, Tally, Visitors, hop, rush

TOWNS = ["towns-bern", "towns-zurich", "towns-govikon"]
NEWCOMER = "towns-aarwil"
SEARCHED = "zürcher bäck"
LOOKED_UP = ("käse", "müller", "notdienst")

NEWCOMERS_FIRST: Record = {
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


@dataclass
class Stopwatch:
    """How long a step took."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Measure the time of a block."""
    watch, start = Stopwatch(), perf_counter()
    yield watch
    watch.seconds = perf_counter() - start


@dataclass(frozen=True)
class Import:
    """A town that got its records."""

    town: str
    entries: int
    seconds_of_schema: float
    seconds_of_import: float


@dataclass(frozen=True)
class Finding:
    """What a search found in a town, by the index and by the database."""

    town: str
    words: str
    by_index: list[str]
    by_database: list[str]


@dataclass
class Failure:
    """A request that failed, and the town before and after it."""

    town: str
    error: str = ""
    announced: int = 0
    commits: int = 0
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Newcomer:
    """The town that was there when it was needed."""

    town: str
    new_extensions: list[str]
    first_seconds: float
    next_seconds: float
    most_similar: str


@dataclass(frozen=True)
class Check:
    """Something that has to hold, and whether it does."""

    claim: str
    holds: bool
    evidence: str


@dataclass
class Demo:
    """The application, with what the demo knows about it from outside."""

    mgr: SessionManager
    index: SearchIndex
    meter: Meter
    requests: int
    seed: int
    records: dict[str, list[Record]] = field(default_factory=dict)
    visitors: list[Visitors] = field(default_factory=list)

    def import_towns(self) -> list[Import]:
        """Make three towns from nothing."""
        return [self._import(town) for town in TOWNS]

    def _import(self, town: str) -> Import:
        path = DATA / f"{town}.csv"
        with timed() as making:
            self.mgr.ensure_schema_exists(town)
        with timed() as importing:
            entries = import_csv(self.mgr, town, path)
        records = list(read_records(path))
        self.visitors.append(Visitors(town, self.index, records, self.seed))
        return Import(town, entries, making.seconds, importing.seconds)

    def hop(self) -> Tally:
        """Serve requests, each for another town."""
        return hop(self.mgr, self.visitors, self.requests, self.meter, self.seed)

    def rush(self) -> Tally:
        """Serve as many requests again, all towns at the same time."""
        return rush(self.mgr, self.visitors, self.requests // len(self.visitors))

    def search(self, words: str) -> list[Finding]:
        """Search the same in each town, with the index and without."""
        return [self._search(town, words) for town in TOWNS]

    def _search(self, town: str, words: str) -> Finding:
        by_index = app.handle(self.mgr, town, app.search, self.index, words)
        found = [
            {
                entry.id: entry.name
                for entry in app.handle(self.mgr, town, app.search_database, word)
            }
            for word in words.split()
        ]
        ids = set.intersection(*(set(names) for names in found))
        by_database = sorted(found[0][number] for number in ids)
        return Finding(town, words, sorted(entry.name for entry in by_index), by_database)

    def fail(self) -> Failure:
        """Book a room three times, the third time when it is taken."""
        town = TOWNS[-1]
        failure = Failure(town)
        evening = OPENING - timedelta(days=365)
        booking: dict[str, Any] = {"room": "Gemeindesaal", "title": "Räbeliechtliprobe"}
        app.handle(self.mgr, town, app.book, 1, **booking, starts=[evening])
        failure.before = self._bookings(town)
        starts = [evening + timedelta(days=days) for days in (-2, -1, 0)]
        with self._overheard(failure):
            try:
                app.handle(self.mgr, town, app.book, 2, **booking, starts=starts)
            except IntegrityError as error:
                failure.error = str(error.orig).splitlines()[0]
        failure.after = self._bookings(town)
        return failure

    def _bookings(self, town: str) -> tuple[int, int]:
        [facts] = self.look_at([town])
        return facts["bookings"], len(self.index.of(town).documents)

    @contextmanager
    def _overheard(self, failure: Failure) -> Iterator[None]:
        def on_insert(town: str, obj: object) -> None:
            failure.announced += 1

        def on_commit(town: str, changes: ChangeSet) -> None:
            failure.commits += 1

        with (
            self.mgr.on_insert.connected_to(on_insert, failure.town),
            self.mgr.on_commit.connected_to(on_commit, failure.town),
        ):
            yield

    def welcome(self) -> Newcomer:
        """Serve a town that nobody has prepared, which needs one more extension."""
        self.mgr.required_extensions.add("pg_trgm")
        before = set(self.mgr.created_extensions)
        with timed() as first:
            app.handle(self.mgr, NEWCOMER, app.register, NEWCOMERS_FIRST)
        with timed() as second:
            similar = app.handle(self.mgr, NEWCOMER, app.search_similar, "Bekerei Zurcher")
        extensions = sorted(self.mgr.created_extensions - before)
        return Newcomer(NEWCOMER, extensions, first.seconds, second.seconds, similar[0].name)

    def look_at(self, towns: list[str]) -> list[TownFacts]:
        """Return what stands in the schemas of the towns."""
        engine = create_engine(self.mgr.url)
        try:
            return look_at(engine, towns)
        finally:
            engine.dispose()

    def check(self, tallies: list[Tally], failure: Failure) -> list[Check]:
        """Return what has to hold in the end."""
        facts = self.look_at([*TOWNS, NEWCOMER])
        lookups = list(chain.from_iterable(self.search(words) for words in LOOKED_UP))
        return [
            self._check_rows(facts),
            self._check_answers(tallies),
            self._check_index(facts),
            check_findings(lookups),
            check_failure(failure),
            self._check_schemas(),
            *self._check_costs(),
        ]

    def _check_rows(self, facts: list[TownFacts]) -> Check:
        rows = sum(sum(fact.rows.values()) for fact in facts)
        foreign = sum(fact.foreign_rows for fact in facts)
        evidence = f"{foreign} foreign rows among {rows}"
        return Check("Each row stands in the schema of its own town", foreign == 0, evidence)

    def _check_answers(self, tallies: list[Tally]) -> Check:
        rows = sum(tally.rows for tally in tallies)
        foreign = sum(tally.foreign_rows for tally in tallies)
        requests = sum(tally.requests for tally in tallies)
        evidence = f"{foreign} foreign rows among {rows} shown in {requests} requests"
        return Check("Nobody was shown a row of another town", foreign == 0 < rows, evidence)

    def _check_index(self, facts: list[TownFacts]) -> Check:
        held = {fact.town: self.index.of(fact.town).documents for fact in facts}
        differing = [f.town for f in facts if f.index.documents != held[f.town]]
        evidence = f"{sum(map(len, held.values()))} entries, differing: {differing or 'none'}"
        return Check("The index holds what the database holds", not differing, evidence)

    def _check_schemas(self) -> Check:
        engine = create_engine(self.mgr.url)
        stray = tables_outside(engine)
        engine.dispose()
        holds = self.mgr.list_schemas("towns") == sorted([*TOWNS, NEWCOMER]) and not stray
        evidence = f"{len(self.mgr.list_schemas())} schemas, {len(stray)} tables outside"
        return Check("Each town has its schema, and nothing is outside", holds, evidence)

    def _check_costs(self) -> list[Check]:
        """A request costs its statements and a COMMIT; BEGIN and search path come for free."""
        if not self.meter.counts_round_trips:
            return []
        costs = self.meter.costs.values()
        expected = sum(cost.statements + cost.requests for cost in costs)
        counted = sum(cost.round_trips for cost in costs)
        evidence = f"{counted} round trips, {expected} expected"
        return [
            Check("A request costs its statements and a COMMIT", counted == expected, evidence)
        ]


def check_findings(findings: list[Finding]) -> Check:
    """Tell whether index and database find the same."""
    differing = [f"{f.words} in {f.town}" for f in findings if f.by_index != f.by_database]
    found = sum(len(finding.by_index) for finding in findings)
    evidence = f"{found} found by {len(findings)} searches, differing: {differing or 'none'}"
    return Check("The index finds what unaccent() finds", found > 0 and not differing, evidence)


def check_failure(failure: Failure) -> Check:
    """Tell whether the failed request left nothing."""
    holds = bool(failure.error) and failure.before == failure.after and failure.commits == 0
    evidence = f"{failure.announced} rows written, then rolled back"
    return Check("The request that failed left nothing", holds and failure.announced > 0, evidence)


def is_kept(entry: Entry) -> bool:
    """Tell whether an entry stands in the directory."""
    return bool(entry.id)

"""Visitors: requests at random, as the people of the towns would make them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from onegov_orm import SessionManager

from . import app
from .importer import Record
from .index import SearchIndex
from .meter import Meter
from .models import Base

WORDS = ("müller", "velo", "verein", "bäckerei", "zürcher", "notdienst", "käse", "kinder", "rösti")
TAGS = ("vegan", "Notdienst", "Jugend", "Lehrbetrieb", "Saal")
ROOMS = ("Gemeindesaal", "Singsaal", "Turnhalle", "Stübli")
OPENING = datetime(2026, 1, 5, 18, tzinfo=UTC)

Handler = Callable[..., Any]

#: The entries that stay, and can book rooms; those with higher ids may close down.
STAYING = 200


@dataclass(frozen=True)
class Request:
    """One request of a visitor."""

    town: str
    handler: Handler
    arguments: dict[str, Any]


@dataclass
class Tally:
    """What visitors were shown."""

    requests: int = 0
    rows: int = 0
    foreign_rows: int = 0

    def add(self, request: Request, answer: Any) -> None:
        """Count the rows of an answer, and those that belong to another town."""
        rows = rows_of(answer)
        self.requests += 1
        self.rows += len(rows)
        self.foreign_rows += sum(row.town != request.town for row in rows)


class Visitors:
    """The visitors of one town."""

    def __init__(
        self, town: str, index: SearchIndex, records: Sequence[Record], seed: int
    ) -> None:
        self._town = town
        self._index = index
        self._records = records
        self._dice = random.Random(f"{town} {seed}")
        self._numbers = count(1)
        self._makers: dict[Handler, tuple[int, Callable[[], dict[str, Any]]]] = {
            app.search: (30, self._search),
            app.show: (30, self._show),
            app.tagged: (8, lambda: {"tag": self._dice.choice(TAGS)}),
            app.describe: (12, self._describe),
            app.register: (8, self._register),
            app.book: (8, self._book),
            app.cancel: (4, lambda: {"room": self._dice.choice(ROOMS)}),
            app.close_down: (2, self._close_down),
            app.tag_category: (2, self._tag_category),
        }
        self._weights = [weight for weight, _ in self._makers.values()]

    def next_request(self) -> Request:
        """Return the next request."""
        handler = self._dice.choices(list(self._makers), self._weights)[0]
        return Request(self._town, handler, self._makers[handler][1]())

    def _search(self) -> dict[str, Any]:
        return {"index": self._index, "words": self._dice.choice(WORDS)}

    def _show(self) -> dict[str, Any]:
        return {"entry_id": self._dice.randint(1, len(self._records))}

    def _describe(self) -> dict[str, Any]:
        number = next(self._numbers)
        return self._show() | {
            "text": f"Neu: Angebot {number}.",
            "web": f"https://{number}.example/",
        }

    def _register(self) -> dict[str, Any]:
        record = self._dice.choice(self._records)
        return {"record": {**record, "name": f"{record['name']} {next(self._numbers)}"}}

    def _book(self) -> dict[str, Any]:
        return {
            "entry_id": self._dice.randint(1, STAYING),
            "room": self._dice.choice(ROOMS),
            "title": self._dice.choice(("Probe", "Jassturnier", "Generalversammlung", "Yoga")),
            "starts": [OPENING + timedelta(days=next(self._numbers))],
        }

    def _close_down(self) -> dict[str, Any]:
        return {"entry_id": self._dice.randint(STAYING + 1, len(self._records))}

    def _tag_category(self) -> dict[str, Any]:
        tag = f"Aktion {next(self._numbers)}"
        return {"category": self._dice.choice(list(app.CATEGORIES)), "tag": tag}


def hop(
    mgr: SessionManager, visitors: Sequence[Visitors], requests: int, meter: Meter, seed: int
) -> Tally:
    """Serve requests one after the other, each for another town at random."""
    dice = random.Random(seed)
    tally = Tally()
    for _ in range(requests):
        request = dice.choice(visitors).next_request()
        with meter.measure(request.handler.__name__):
            answer = app.handle(mgr, request.town, request.handler, **request.arguments)
        tally.add(request, answer)
    return tally


def rush(mgr: SessionManager, visitors: Sequence[Visitors], requests: int) -> Tally:
    """Serve all towns at the same time, each in a thread of its own."""
    with ThreadPoolExecutor(len(visitors)) as threads:
        tallies = list(threads.map(lambda them: serve(mgr, them, requests), visitors))
    return Tally(
        sum(tally.requests for tally in tallies),
        sum(tally.rows for tally in tallies),
        sum(tally.foreign_rows for tally in tallies),
    )


def serve(mgr: SessionManager, visitors: Visitors, requests: int) -> Tally:
    """Serve the visitors of one town."""
    tally = Tally()
    for _ in range(requests):
        request = visitors.next_request()
        tally.add(request, app.handle(mgr, request.town, request.handler, **request.arguments))
    return tally


def rows_of(answer: Any) -> list[Base]:
    """Return the rows in the answer of a handler, and those loaded along with them."""
    rows = answer if isinstance(answer, Sequence) else [answer] if answer else []
    along = [value for row in rows for value in vars(row).values()]
    flat = [item for value in along for item in (value if isinstance(value, list) else [value])]
    return [*rows, *(item for item in flat if isinstance(item, Base))]

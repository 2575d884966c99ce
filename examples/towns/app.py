"""The application: its manager, what it does for each request, and the request handlers.

A handler is a plain function of the manager and the town that the request is for. It asks
the manager for the session, and neither commits nor names a schema: `handle` does that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Concatenate, ParamSpec, TypeVar

import transaction
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import joinedload, selectinload

from onegov_orm import SessionManager

from .importer import Directory, Record
from .index import SearchIndex
from .models import Base, Booking, Category, Entry

P = ParamSpec("P")
T = TypeVar("T")

#: The headings that every directory starts with.
CATEGORIES = {
    "bakery": "Bäckereien und Konditoreien",
    "restaurant": "Gastgewerbe",
    "crafts": "Handwerk und Bau",
    "health": "Gesundheit",
    "shop": "Läden",
    "services": "Dienstleistungen",
    "sports": "Sportvereine",
    "culture": "Kultur",
    "community": "Gemeinschaft",
}


def make_manager(dsn: str, index: SearchIndex) -> SessionManager:
    """Return the manager of the application; nothing is connected yet."""
    mgr = SessionManager(dsn, Base)
    mgr.on_schema_init.connect(add_categories)
    mgr.on_commit.connect(index.update)
    return mgr


def add_categories(town: str, connection: Connection) -> None:
    """Give a new town its categories, in the transaction that makes its schema."""
    rows = [{"town": town, "slug": slug, "title": title} for slug, title in CATEGORIES.items()]
    connection.execute(insert(Category), rows)


def handle(
    mgr: SessionManager,
    town: str,
    handler: Callable[Concatenate[SessionManager, str, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Serve one request: all of it happens in its town, or nothing happens."""
    mgr.set_current_schema(town)
    try:
        answer = handler(mgr, town, *args, **kwargs)
        transaction.commit()
    except BaseException:
        transaction.abort()
        raise
    return answer


# -- requests that read


def search(mgr: SessionManager, town: str, index: SearchIndex, words: str) -> Sequence[Entry]:
    """Return the entries that the index finds, with their streets."""
    ids = index.search(town, words, Entry)
    found = select(Entry).where(Entry.id.in_(ids)).options(joinedload(Entry.street))
    return mgr.session().scalars(found.order_by(Entry.name)).all()


def search_database(mgr: SessionManager, town: str, words: str) -> Sequence[Entry]:
    """Return what `search` returns, found without the index."""
    tags = func.array_to_string(Entry.tags, " ")
    text = func.unaccent(func.concat_ws(" ", Entry.name, Entry.description, tags))
    begins = [func.concat(r"\m", func.unaccent(re.escape(word))) for word in words.split()]
    found = select(Entry).where(*(text.regexp_match(begin, flags="i") for begin in begins))
    return mgr.session().scalars(found.order_by(Entry.name)).all()


def search_similar(mgr: SessionManager, town: str, name: str) -> Sequence[Entry]:
    """Return the entries with the most similar names; needs the extension ``pg_trgm``."""
    closest = select(Entry).order_by(func.similarity(Entry.name, name).desc(), Entry.id)
    return mgr.session().scalars(closest.limit(3)).all()


def show(mgr: SessionManager, town: str, entry_id: int) -> Sequence[Entry]:
    """Return an entry with its street, category and bookings; nothing if there is none."""
    options = joinedload(Entry.street), joinedload(Entry.category), selectinload(Entry.bookings)
    wanted = select(Entry).where(Entry.id == entry_id).options(*options)
    return mgr.session().scalars(wanted).all()


def tagged(mgr: SessionManager, town: str, tag: str) -> Sequence[Entry]:
    """Return the entries with a tag."""
    return mgr.session().scalars(select(Entry).where(Entry.tags.contains([tag]))).all()


# -- requests that write


def register(mgr: SessionManager, town: str, record: Record) -> Entry:
    """Add an entry to the directory."""
    session = mgr.session()
    entry = Directory(session, town).entry(record)
    session.add(entry)
    session.flush()
    return entry


def describe(mgr: SessionManager, town: str, entry_id: int, text: str, web: str) -> None:
    """Change what an entry says about itself."""
    entry = mgr.session().get(Entry, entry_id)
    if entry is not None:
        entry.description = text
        entry.contact["web"] = web


def tag_category(mgr: SessionManager, town: str, category: str, tag: str) -> None:
    """Add a tag to all entries of a category that lack it, in one statement."""
    of_category = Entry.category.has(Category.slug == category)
    values = {"tags": func.array_append(Entry.tags, tag)}
    lacks = ~Entry.tags.contains([tag])
    mgr.session().execute(update(Entry).where(of_category, lacks).values(values))


def close_down(mgr: SessionManager, town: str, entry_id: int) -> None:
    """Strike an entry out, and the bookings with it."""
    session = mgr.session()
    entry = session.get(Entry, entry_id)
    if entry is not None:
        session.delete(entry)


def book(
    mgr: SessionManager,
    town: str,
    entry_id: int,
    room: str,
    title: str,
    starts: Sequence[datetime],
) -> None:
    """Book a room for two hours at each time; raises `IntegrityError` if it is taken."""
    session = mgr.session()
    for start in starts:
        during = Range(start, start + timedelta(hours=2))
        session.add(Booking(town=town, entry_id=entry_id, room=room, title=title, during=during))
        session.flush()


def cancel(mgr: SessionManager, town: str, room: str) -> None:
    """Give the first booking of a room back."""
    session = mgr.session()
    first = select(Booking).where(Booking.room == room).order_by(Booking.during).limit(1)
    for booking in session.scalars(first):
        session.delete(booking)

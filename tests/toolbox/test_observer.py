"""Observers: methods that follow what they observe, in the same flush."""

from __future__ import annotations

from typing import Any

import pytest
import transaction
from sqlalchemy import Column, ForeignKey, Table, create_engine, event, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    object_session,
    relationship,
)

from onegov_orm.observer import observes
from tests.asynchronous import in_loop


class Base(DeclarativeBase):
    pass


class Library(Base):
    __tablename__ = "libraries"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    titles: Mapped[str | None]
    page_count: Mapped[int | None]
    calls: Mapped[int] = mapped_column(default=0)
    books: Mapped[list[Book]] = relationship(
        back_populates="library", order_by="Book.id", cascade="all, delete-orphan"
    )

    @observes("books.title")
    def update_titles(self, titles: list[str]) -> None:
        self.calls = (self.calls or 0) + 1
        self.titles = ",".join(titles)

    @observes("books.pages.size")
    def update_page_count(self, sizes: list[int]) -> None:
        self.page_count = sum(sizes)


tagging = Table(
    "taggings",
    Base.metadata,
    Column("book_id", ForeignKey("books.id", ondelete="CASCADE"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id", ondelete="CASCADE"), primary_key=True),
)


class Book(Base):
    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
    library_id: Mapped[int | None] = mapped_column(ForeignKey("libraries.id"))
    title: Mapped[str] = mapped_column(default="")
    slug: Mapped[str | None]
    url: Mapped[str | None]
    label: Mapped[str | None]
    tag_names: Mapped[str | None]
    content: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    keys: Mapped[list[Any] | None] = mapped_column(JSONB)
    library: Mapped[Library | None] = relationship(back_populates="books")
    pages: Mapped[list[Page]] = relationship(
        back_populates="book", order_by="Page.id", cascade="all, delete-orphan"
    )
    # No relationship leads back from a tag to its books.
    tags: Mapped[list[Tag]] = relationship(secondary=tagging, order_by="Tag.id")

    # Before the observer that it depends on.
    @observes("slug")
    def update_url(self, slug: str) -> None:
        self.url = f"/{slug}"

    @observes("title")
    def update_slug(self, title: str) -> None:
        self.slug = title.lower()

    @observes("library.name", "title")
    def update_label(self, library: str | None, title: str) -> None:
        self.label = f"{library}: {title}"

    @observes("tags.name")
    def update_tag_names(self, names: list[str]) -> None:
        self.tag_names = ",".join(names)

    @observes("content")
    def update_keys(self, content: dict[str, Any]) -> None:
        self.keys = [type(content).__name__, *content]


class Page(Base):
    __tablename__ = "pages"

    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("books.id"))
    size: Mapped[int]
    note: Mapped[str | None]
    book: Mapped[Book] = relationship(back_populates="pages")


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def mgr(new_town):
    return new_town(Base)


@pytest.fixture
def session(mgr):
    return mgr.session()


def saved(session, *objects):
    """Commit objects, and return the session in which nothing is loaded."""
    session.add_all(objects)
    transaction.commit()
    return session


def book(session, title="A"):
    return session.scalars(select(Book).filter_by(title=title)).one()


def library(session, name="L"):
    return session.scalars(select(Library).filter_by(name=name)).one()


# -- what is observed


def test_what_an_observer_sets_is_written_by_the_same_flush(session):
    session.add(Book(title="Dune"))
    session.flush()
    assert session.scalars(select(Book.__table__.c.slug)).one() == "dune"


def test_an_observer_of_what_another_one_sets_is_called_in_the_same_flush(session):
    saved(session, Book(title="Dune"))
    assert book(session, "Dune").url == "/dune"


def test_what_did_not_change_calls_nobody(session):
    saved(session, Library(name="L", books=[Book(title="A")]))
    found = library(session)
    assert found.calls == 1
    found.name, found.books[0].label = "M", "changed"
    found.books[0].title = "A"
    transaction.commit()
    assert library(session, "M").calls == 1


def test_an_observer_is_called_once_per_flush_and_object(session):
    saved(session, Library(name="L", books=[Book(title=each) for each in "ABC"]))
    found = library(session)
    for each in found.books:
        each.title += "!"
    found.books.append(Book(title="D"))
    transaction.commit()
    assert (library(session).calls, library(session).titles) == (2, "A!,B!,C!,D")


def test_the_order_of_a_collection_is_kept(session):
    titles = [str(number) for number in range(50)]
    saved(session, Library(name="L", books=[Book(title=each) for each in titles]))
    assert library(session).titles == ",".join(titles)


def test_equal_values_are_passed_as_often_as_they_are_there(session):
    saved(session, Library(name="L", books=[Book(title="A", pages=[Page(size=7), Page(size=7)])]))
    assert library(session).page_count == 14


def test_a_dictionary_is_passed_as_it_is(session):
    saved(session, Book(title="A", content={"x": 1}))
    assert book(session).keys == ["dict", "x"]


def test_a_change_at_the_end_of_a_path(session):
    saved(session, Library(name="L", books=[Book(title="A", pages=[Page(size=1)])]))
    session.scalars(select(Page)).one().size = 5
    transaction.commit()
    assert library(session).page_count == 5


def test_a_change_in_the_middle_of_a_path(session):
    saved(
        session,
        Library(name="L", books=[Book(title="A", pages=[Page(size=1)])]),
        Library(name="M"),
    )
    book(session).library = library(session, "M")
    transaction.commit()
    found = {each.name: each.page_count for each in session.scalars(select(Library))}
    assert found == {"L": 0, "M": 1}


def test_an_object_that_moves_reaches_the_one_that_it_leaves_unloaded(session):
    saved(session, Library(name="L", books=[Book(title="A")]), Library(name="M"))
    moved, goal = book(session), library(session, "M")
    assert "library" not in moved.__dict__
    moved.library = goal
    transaction.commit()
    assert (library(session).titles, library(session, "M").titles) == ("", "A")


def test_a_deleted_object_is_left_out(session):
    saved(session, Library(name="L", books=[Book(title="A"), Book(title="B")]))
    session.delete(book(session))
    transaction.commit()
    assert library(session).titles == "B"


def test_an_orphan_is_left_out(session):
    saved(session, Library(name="L", books=[Book(title="A"), Book(title="B")]))
    found = library(session)
    del found.books[0]
    transaction.commit()
    assert library(session).titles == "B"


def test_the_observers_of_a_deleted_object_are_not_called(session):
    saved(session, Library(name="L", books=[Book(title="A")]))
    found, calls = library(session), []
    event.listen(Library.calls, "set", lambda *args: calls.append(args), propagate=True)
    with session.no_autoflush:
        found.books[0].title = "B"
        session.delete(found)
    transaction.commit()
    assert calls == []


def test_a_missing_object_is_none(session):
    saved(session, Library(name="L", books=[Book(title="A")]))
    assert book(session).label == "L: A"
    session.delete(library(session))
    session.add(Book(title="B"))
    transaction.commit()
    assert book(session, "B").label == "None: B"


def test_a_foreign_key_is_followed_to_where_it_points_now(session):
    saved(session, Library(id=1, name="L"), Library(id=2, name="M"))
    saved(session, Book(title="A", library_id=1))
    assert book(session).label == "L: A"
    found = book(session)
    assert found.library.name == "L"
    found.library_id = 2
    session.flush()
    assert (found.label, found.library.name) == ("M: A", "M")


def test_objects_that_know_no_way_back_are_found(session):
    saved(session, Book(title="A", tags=[Tag(name="x"), Tag(name="y")]))
    assert book(session).tag_names == "x,y"
    session.scalars(select(Tag).filter_by(name="x")).one().name = "z"
    transaction.commit()
    assert book(session).tag_names == "z,y"
    session.delete(session.scalars(select(Tag).filter_by(name="y")).one())
    transaction.commit()
    assert book(session).tag_names == "z"


def test_what_was_deleted_before_is_left_out_of_collections_that_still_have_it(session):
    saved(session, Library(name="L", books=[Book(title="A"), Book(title="B")]))
    found = library(session)
    session.delete(found.books[0])
    session.flush()
    assert len(found.books) == 2
    found.books[1].title = "C"
    session.flush()
    assert found.titles == "C"


@pytest.mark.parametrize("how", ["relationship", "foreign key"])
def test_what_moves_without_being_read_leaves_a_loaded_collection(session, how):
    saved(session, Library(id=1, name="L", books=[Book(title="A")]), Library(id=2, name="M"))
    one, other, moved = library(session), library(session, "M"), book(session)
    assert len(one.books) == 1
    session.expire(moved)
    if how == "relationship":
        moved.library = other
    else:
        moved.library_id = 2
    session.flush()
    assert (one.titles, other.titles) == ("", "A")
    one.books.append(Book(title="B"))
    session.flush()
    assert (one.titles, other.titles) == ("B", "A")


# -- when


def test_an_autoflush_calls_observers(session):
    session.add(Book(title="Dune"))
    assert session.scalars(select(Book).filter_by(slug="dune")).one().url == "/dune"


def test_what_a_subscriber_sets_is_followed_in_the_next_flush(mgr, session):
    @mgr.on_insert.connect
    def rename(schema, obj):
        if isinstance(obj, Book) and obj.title == "A":
            obj.title = "B"

    saved(session, Library(name="L", books=[Book(title="A")]))
    assert (library(session).titles, book(session, "B").url) == ("B", "/b")


def test_changes_of_observers_are_announced(mgr, session):
    saved(session, Library(name="L", books=[Book(title="A")]))
    updated = []

    @mgr.on_update.connect
    def note(schema, obj):
        updated.append(type(obj).__name__)

    book(session).title = "B"
    transaction.commit()
    assert sorted(updated) == ["Book", "Library"]


def test_what_an_observer_deletes_is_announced_whole(new_town):
    class OwnBase(DeclarativeBase):
        pass

    class Note(OwnBase):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str]
        is_done: Mapped[bool] = mapped_column(default=False)

        @observes("is_done")
        def follow(self, is_done: bool) -> None:
            session = object_session(self)
            for each in session.scalars(select(Note).where(Note.id != self.id)):
                session.expire(each, ["text"])
                session.delete(each)

    mgr, texts = new_town(OwnBase), []
    saved(mgr.session(), Note(text="a"), Note(text="b"))
    mgr.on_delete.connect(lambda schema, session, obj: texts.append(obj.text), weak=False)
    mgr.session().scalars(select(Note).filter_by(text="a")).one().is_done = True
    transaction.commit()
    assert texts == ["b"]


def test_sessions_of_others_are_left_alone(shared_dsn, mgr):
    engine = create_engine(
        shared_dsn, execution_options={"schema_translate_map": {None: mgr.current_schema}}
    )
    with Session(engine) as foreign:
        foreign.add(Book(title="A"))
        foreign.commit()
        assert foreign.scalars(select(Book)).one().slug is None
    engine.dispose()


def test_what_moves_by_its_foreign_key_is_in_the_collections(session):
    saved(session, Library(id=1, name="L", books=[Book(title="A")]), Library(id=2, name="M"))
    one, other, moved = library(session), library(session, "M"), book(session)
    assert (len(one.books), len(other.books)) == (1, 0)
    moved.library_id = 2
    session.add(Book(title="B", library_id=2))
    session.flush()
    assert (one.titles, other.titles) == ("", "A,B")
    moved.title = "C"
    session.flush()
    assert (one.titles, other.titles, len(other.books)) == ("", "C,B", 2)


@in_loop
async def test_observers_run_under_asyncio_and_may_load(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    async with mgr.schema("towns-bern") as session:
        session.add(Library(name="L", books=[Book(title="A", pages=[Page(size=1)])]))
    async with mgr.schema("towns-bern") as session:
        page = (await session.scalars(select(Page))).one()
        page.size = 3
    async with mgr.schema("towns-bern") as session:
        assert await session.scalar(select(Library.page_count)) == 3

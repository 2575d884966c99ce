"""Aggregated columns: what they hold after a flush is what a query would find."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import transaction
from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    ForeignKey,
    Integer,
    Numeric,
    String,
    Table,
    and_,
    func,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from onegov_orm.aggregates import aggregated


class Base(DeclarativeBase):
    pass


membership = Table(
    "memberships",
    Base.metadata,
    Column("topic_id", ForeignKey("topics.id", ondelete="CASCADE"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id", ondelete="CASCADE"), primary_key=True),
)


class Forum(Base):
    __tablename__ = "forums"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    topics: Mapped[list[Topic]] = relationship(
        back_populates="forum", cascade="all, delete-orphan"
    )

    @aggregated("topics.comments", mapped_column(Integer, default=0))
    def votes(self) -> ColumnElement[int]:
        return func.sum(Comment.votes)

    @aggregated("topics", mapped_column(Integer, default=0))
    def comment_count(self) -> ColumnElement[int]:
        return func.sum(Topic.comment_count)


class Topic(Base):
    __tablename__ = "topics"

    id: Mapped[int] = mapped_column(primary_key=True)
    forum_id: Mapped[int | None] = mapped_column(ForeignKey("forums.id"))
    name: Mapped[str | None]
    changes: Mapped[int | None] = mapped_column(onupdate=text("coalesce(topics.changes, 0) + 1"))
    forum: Mapped[Forum | None] = relationship(back_populates="topics")
    comments: Mapped[list[Comment]] = relationship(
        back_populates="topic", cascade="all, delete-orphan"
    )
    loved: Mapped[list[Comment]] = relationship(
        primaryjoin=lambda: and_(Comment.topic_id == Topic.id, Comment.votes > 9), viewonly=True
    )
    tags: Mapped[list[Tag]] = relationship(secondary=membership, back_populates="topics")

    @aggregated("comments", mapped_column(Integer))
    def comment_count(self) -> ColumnElement[int]:
        return func.count(text("1"))

    @aggregated("loved", mapped_column(Integer))
    def loved_count(self) -> ColumnElement[int]:
        return func.count()

    @aggregated("tags", mapped_column(String))
    def tag_names(self) -> ColumnElement[str]:
        return func.string_agg(Tag.name, text("',' ORDER BY tags.name"))

    @aggregated("comments", mapped_column(Numeric(10, 2)))
    def average(self) -> ColumnElement[Decimal]:
        return func.avg(Comment.votes)


class Comment(Base):
    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(primary_key=True)
    topic_id: Mapped[int | None] = mapped_column(ForeignKey("topics.id"))
    votes: Mapped[int] = mapped_column(default=0)
    note: Mapped[str | None]
    topic: Mapped[Topic | None] = relationship(back_populates="comments")


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    topics: Mapped[list[Topic]] = relationship(secondary=membership, back_populates="tags")


@pytest.fixture
def mgr(new_town):
    return new_town(Base)


@pytest.fixture
def session(mgr):
    return mgr.session()


def saved(session, *objects):
    session.add_all(objects)
    transaction.commit()
    return session


def topic(session, name="a"):
    return session.scalars(select(Topic).filter_by(name=name)).one()


def stored(session, column, **criteria):
    return session.execute(select(column).filter_by(**criteria)).scalar_one()


def test_new_children_are_counted(session):
    saved(session, Topic(name="a", comments=[Comment(votes=1), Comment(votes=2)]))
    assert stored(session, Topic.comment_count, name="a") == 2
    assert stored(session, Topic.average, name="a") == Decimal("1.50")


def test_no_children_are_counted_too(session):
    saved(session, Topic(name="a"), Forum(name="f"))
    assert stored(session, Topic.comment_count, name="a") == 0
    assert stored(session, Forum.votes, name="f") == 0
    assert stored(session, Topic.average, name="a") is None


def test_a_loaded_owner_has_the_new_value_and_is_not_dirty(session):
    saved(session, Topic(name="a"))
    found = topic(session)
    assert found.comment_count == 0
    session.add(Comment(topic_id=found.id))
    session.flush()
    assert found.__dict__["comment_count"] == 1
    assert (found.changes, len(session.dirty)) == (2, 0)


def test_a_new_owner_has_its_value_after_the_flush(session):
    new = Topic(name="a", comments=[Comment()])
    session.add(new)
    session.flush()
    assert new.__dict__["comment_count"] == 1


@pytest.mark.parametrize("how", ["relationship", "foreign key", "collection"])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_child_that_moves_is_counted_where_it_is(session, how, is_loaded):
    saved(session, Topic(id=1, name="a", comments=[Comment(id=1)]), Topic(id=2, name="b"))
    moved, goal = session.get(Comment, 1), session.get(Topic, 2)
    origin = session.get(Topic, 1) if is_loaded else None
    assert origin is None or origin.comment_count == 1
    if how == "relationship":
        moved.topic = goal
    elif how == "foreign key":
        moved.topic_id = 2
    else:
        goal.comments.append(moved)
    session.flush()
    assert goal.comment_count == 1
    assert session.get(Topic, 1).comment_count == 0


def test_a_child_that_moves_without_ever_being_read(session):
    saved(session, Topic(id=1, name="a", comments=[Comment(id=1)]), Topic(id=2, name="b"))
    moved = session.get(Comment, 1)
    session.expire(moved)
    moved.topic_id = 2
    session.flush()
    counts = session.execute(select(Topic.id, Topic.comment_count).order_by(Topic.id)).all()
    assert counts == [(1, 0), (2, 1)]


def test_deleted_children_are_not_counted(session):
    saved(session, Topic(name="a", comments=[Comment(id=1, votes=3), Comment(id=2)]))
    session.delete(session.get(Comment, 1))
    session.flush()
    assert stored(session, Topic.comment_count, name="a") == 1
    assert stored(session, Topic.average, name="a") == 0


def test_a_deleted_child_that_was_never_read(session):
    saved(session, Topic(name="a", comments=[Comment(id=1)]))
    gone = session.get(Comment, 1)
    session.expire(gone)
    session.delete(gone)
    session.flush()
    assert stored(session, Topic.comment_count, name="a") == 0


def test_orphans_are_not_counted(session):
    saved(session, Topic(name="a", comments=[Comment(), Comment()]))
    found = topic(session)
    del found.comments[0]
    session.flush()
    assert found.comment_count == 1


def test_a_condition_of_the_relationship_counts(session):
    saved(session, Topic(name="a", comments=[Comment(id=101, votes=9), Comment(votes=10)]))
    found = topic(session)
    assert found.loved_count == 1
    session.get(Comment, 101).votes = 10
    session.flush()
    assert found.loved_count == 2


def test_many_to_many_from_either_side(session):
    saved(session, Topic(name="a"), Topic(name="b"), Tag(name="x"), Tag(name="y"))
    a, b = topic(session), topic(session, "b")
    x, y = session.scalars(select(Tag).order_by(Tag.name))
    a.tags.append(x)
    y.topics += [a, b]
    session.flush()
    assert (a.tag_names, b.tag_names) == ("x,y", "y")
    y.topics.remove(a)
    x.name = "z"
    session.flush()
    assert (a.tag_names, b.tag_names) == ("z", "y")
    session.delete(y)
    session.flush()
    assert (a.tag_names, b.tag_names) == ("z", None)


def test_paths_of_several_steps(session):
    saved(
        session,
        Forum(id=1, topics=[Topic(name="a", comments=[Comment(id=101, votes=5)])]),
        Forum(id=2, topics=[Topic(name="b", comments=[Comment(votes=2)])]),
    )

    def votes():
        return session.scalars(select(Forum.votes).order_by(Forum.id)).all()

    assert votes() == [5, 2]
    session.get(Comment, 101).votes = 6
    assert votes() == [6, 2]
    topic(session, "a").forum_id = 2
    assert votes() == [0, 8]
    session.get(Comment, 101).topic = topic(session, "b")
    session.delete(topic(session, "a"))
    assert votes() == [0, 8]
    session.delete(topic(session, "b"))
    assert votes() == [0, 0]


def test_an_aggregate_of_aggregates(session):
    saved(session, Forum(name="f", topics=[Topic(name="a", comments=[Comment()])]))
    forum = session.scalars(select(Forum)).one()
    assert forum.comment_count == 1
    session.add(Comment(topic=topic(session)))
    session.flush()
    assert forum.comment_count == 2

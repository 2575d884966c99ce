"""Random changes over two schemas: aggregates and observers always end up with what is true."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import Column, ColumnElement, ForeignKey, Integer, Table, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from onegov_orm.aggregates import aggregated
from onegov_orm.observer import observes


class Base(DeclarativeBase):
    pass


def joined(values: Any) -> str:
    return ",".join(sorted(map(str, values)))


class Forum(Base):
    __tablename__ = "forums"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    digest: Mapped[str] = mapped_column(default="")
    topics: Mapped[list[Topic]] = relationship(
        back_populates="forum", cascade="all, delete-orphan"
    )

    @observes("topics.comments.votes")
    def follow(self, votes: list[int]) -> None:
        self.digest = joined(votes)

    @aggregated("topics.comments", mapped_column(Integer, default=0))
    def votes(self) -> ColumnElement[int]:
        return func.sum(Comment.votes)

    @aggregated("topics", mapped_column(Integer, default=0))
    def comment_count(self) -> ColumnElement[int]:
        return func.sum(Topic.comment_count)


tagging = Table(
    "taggings",
    Base.metadata,
    Column("topic_id", ForeignKey("topics.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
)


class Topic(Base):
    __tablename__ = "topics"

    id: Mapped[int] = mapped_column(primary_key=True)
    forum_id: Mapped[int | None] = mapped_column(ForeignKey("forums.id"))
    digest: Mapped[str] = mapped_column(default="")
    tag_names: Mapped[str] = mapped_column(default="")
    home: Mapped[str | None]
    forum: Mapped[Forum | None] = relationship(back_populates="topics")
    comments: Mapped[list[Comment]] = relationship(
        back_populates="topic", cascade="all, delete-orphan"
    )
    tags: Mapped[list[Tag]] = relationship(secondary=tagging, back_populates="topics")

    @observes("comments.votes")
    def follow(self, votes: list[int]) -> None:
        self.digest = joined(votes)

    @observes("tags.name")
    def follow_tags(self, names: list[str]) -> None:
        self.tag_names = joined(names)

    @observes("forum.name")
    def follow_forum(self, name: str | None) -> None:
        self.home = name

    @aggregated("comments", mapped_column(Integer, default=0))
    def comment_count(self) -> ColumnElement[int]:
        return func.count()

    @aggregated("tags", mapped_column(Integer, default=0))
    def tag_count(self) -> ColumnElement[int]:
        return func.count()


class Comment(Base):
    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(primary_key=True)
    topic_id: Mapped[int | None] = mapped_column(ForeignKey("topics.id"))
    votes: Mapped[int]
    topic: Mapped[Topic | None] = relationship(back_populates="comments")


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    topics: Mapped[list[Topic]] = relationship(secondary=tagging, back_populates="tags")


class Storm:
    """Random operations in the session of one schema."""

    def __init__(self, session: Any, dice: random.Random) -> None:
        self.session = session
        self.dice = dice
        self.savepoints: list[Any] = []

    def any(self, model: Any) -> Any:
        found = self.session.scalars(select(model).order_by(model.id)).all()
        return self.dice.choice(found) if found else None

    def link(self, obj: Any, owner: Any, name: str, collection: str) -> None:
        """Move an object to an owner, or to none, in one of the ways there are."""
        how = self.dice.choice(["relationship", "key", "collection"])
        if how == "collection" and owner is not None:
            if obj not in getattr(owner, collection):
                getattr(owner, collection).append(obj)
        elif how == "key" and (owner is None or owner.id is not None):
            setattr(obj, f"{name}_id", owner.id if owner else None)
        else:
            setattr(obj, name, owner)

    def add(self) -> None:
        model = self.dice.choice([Forum, Topic, Topic, Comment, Comment, Comment, Tag])
        values = {"votes": self.dice.randrange(9)} if model is Comment else {}
        if model in (Forum, Tag):
            values = {"name": self.dice.choice("abc")}
        obj = model(**values)
        with self.session.no_autoflush:
            if model is Topic:
                self.link(obj, self.any(Forum), "forum", "topics")
            elif model is Comment:
                self.link(obj, self.any(Topic), "topic", "comments")
            self.session.add(obj)

    def move(self) -> None:
        model, name, owner, collection = self.dice.choice(
            [(Topic, "forum", Forum, "topics"), (Comment, "topic", Topic, "comments")]
        )
        obj, goal = self.any(model), self.any(owner)
        if obj is not None:
            if self.dice.random() < 0.5:
                self.session.expire(obj)
            self.link(obj, goal, name, collection)

    def edit(self) -> None:
        comment, named = self.any(Comment), self.any(self.dice.choice([Forum, Tag]))
        if comment is not None:
            comment.votes = self.dice.randrange(9)
        if named is not None:
            named.name = self.dice.choice("abc")

    def tag(self) -> None:
        topic, tag = self.any(Topic), self.any(Tag)
        if topic is not None and tag is not None:
            one, other = self.dice.choice([(topic.tags, tag), (tag.topics, topic)])
            one.remove(other) if other in one else one.append(other)

    def delete(self) -> None:
        obj = self.any(self.dice.choice([Forum, Topic, Comment, Comment, Tag]))
        if obj is not None:
            # SQLAlchemy deletes with it what is in its collections, as they are in memory.
            self.session.flush()
            self.session.expire_all()
            self.session.delete(obj)

    def expire(self) -> None:
        self.session.flush()
        self.session.expire_all()

    def begin(self) -> None:
        self.savepoints.append(self.session.begin_nested())

    def end(self) -> None:
        if self.savepoints:
            savepoint = self.savepoints.pop()
            savepoint.rollback() if self.dice.random() < 0.6 else savepoint.commit()

    def step(self) -> None:
        operations = [self.add] * 5 + [self.move] * 4 + [self.edit] * 2 + [self.tag] * 2
        operations += [self.delete, self.expire, self.session.flush, self.begin, self.end]
        self.dice.choice(operations)()

    def finish(self) -> None:
        self.savepoints.clear()
        self.session.commit() if self.dice.random() < 0.8 else self.session.rollback()

    def check_loaded(self) -> None:
        """Check that what is in memory is what is in the database."""
        self.session.flush()
        names = ["comment_count", "tag_count", "digest", "tag_names", "home"]
        rows = self.session.execute(select(Topic.__table__)).mappings()
        stored = {row["id"]: [row[name] for name in names] for row in rows}
        for obj in list(self.session.identity_map.values()):
            if isinstance(obj, Topic):
                assert [getattr(obj, name) for name in names] == stored[obj.id]


def check_stored(session: Any) -> None:
    """Check that what is in the database is what a query over all rows finds."""
    topics = session.execute(text("SELECT * FROM topics")).all()
    comments = session.execute(text("SELECT * FROM comments")).all()
    tags = session.execute(
        text("SELECT topic_id, name FROM tags JOIN taggings ON tag_id = id")
    ).all()
    forums = session.execute(text("SELECT * FROM forums")).all()
    for topic in topics:
        own = [each.votes for each in comments if each.topic_id == topic.id]
        names = [each.name for each in tags if each.topic_id == topic.id]
        homes = [each.name for each in forums if each.id == topic.forum_id]
        assert (topic.digest, topic.comment_count) == (joined(own), len(own))
        assert (topic.tag_names, topic.tag_count) == (joined(names), len(names))
        assert topic.home == (homes[0] if homes else None)
    for forum in forums:
        inside = {each.id for each in topics if each.forum_id == forum.id}
        own = [each.votes for each in comments if each.topic_id in inside]
        assert (forum.votes, forum.comment_count) == (sum(own), len(own))
        assert forum.digest == joined(own)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_what_is_derived_is_right(new_town, seed):
    dice = random.Random(seed)
    mgr = new_town(Base, transaction_manager=None)
    names = [mgr.current_schema, f"{mgr.current_schema}-b"]
    storms = []
    for name in names:
        mgr.set_current_schema(name)
        storms.append((name, Storm(mgr.session(), dice)))
    for _ in range(12):
        name, storm = dice.choice(storms)
        try:
            for _ in range(dice.randrange(1, 12)):
                dice.choice(storms)[1].step() if dice.random() < 0.2 else storm.step()
            storm.check_loaded()
            storm.finish()
        except IntegrityError:
            for _name, each in storms:
                each.savepoints.clear()
                each.session.close()
        with mgr.schema(name) as session:
            check_stored(session)

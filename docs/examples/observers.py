"""A forum that counts its comments, and topics that have their addresses from their titles."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, ForeignKey, Integer, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from onegov_orm import SessionManager
from onegov_orm.aggregates import aggregated
from onegov_orm.embedded import EmbeddedServer
from onegov_orm.observer import observes


class Base(DeclarativeBase):
    pass


class Topic(Base):
    __tablename__ = "topics"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    slug: Mapped[str | None]
    authors: Mapped[str | None]
    comments: Mapped[list[Comment]] = relationship(
        back_populates="topic", order_by="Comment.id", cascade="all, delete-orphan"
    )

    @observes("title")
    def update_slug(self, title: str) -> None:
        self.slug = title.lower().replace(" ", "-")

    @observes("comments.author")
    def update_authors(self, authors: list[str]) -> None:
        self.authors = ", ".join(dict.fromkeys(authors))

    @aggregated("comments", mapped_column(Integer, default=0))
    def votes(self) -> ColumnElement[int]:
        return func.sum(Comment.votes)


class Comment(Base):
    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(primary_key=True)
    topic_id: Mapped[int] = mapped_column(ForeignKey("topics.id"))
    author: Mapped[str]
    votes: Mapped[int] = mapped_column(default=0)
    topic: Mapped[Topic] = relationship(back_populates="comments")


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)

    with mgr.schema("towns-bern") as session:
        topic = Topic(title="Opening hours")
        topic.comments = [Comment(author="Ada", votes=3), Comment(author="Grace", votes=2)]
        session.add_all([topic, Topic(title="Parking")])
        session.flush()
        print(topic.slug, "|", topic.authors, "|", topic.votes)

    # A comment that moves changes both topics, the one that it leaves without its being loaded.
    with mgr.schema("towns-bern") as session:
        comment = session.scalars(select(Comment).where(Comment.author == "Grace")).one()
        comment.topic = session.scalars(select(Topic).where(Topic.slug == "parking")).one()
        for topic in session.scalars(select(Topic).order_by(Topic.votes.desc())):
            print(topic.title, "|", topic.authors, "|", topic.votes)

    # Subscribers hear of the topic, though nobody but the database has changed it.
    @mgr.on_update.connect
    def note(schema: str, obj: Any) -> None:
        print(f"{schema}: {type(obj).__name__} {obj.id} was updated")

    with mgr.schema("towns-bern") as session:
        session.add(Comment(topic_id=1, author="Ada", votes=1))

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))

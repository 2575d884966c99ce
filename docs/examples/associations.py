"""Files and tags that anything can have, and what they are linked to."""

from sqlalchemy.orm import Mapped, mapped_column

from onegov_orm import SessionManager
from onegov_orm.abstract import Associable, associated
from onegov_orm.base import Base
from onegov_orm.embedded import EmbeddedServer


class File(Base, Associable):
    __tablename__ = "files"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Tag(Base, Associable):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class HasFiles:
    files = associated(File, "files", "one-to-many", order_by="File.name")


class Tagged:
    tags = associated(Tag, "tags", "many-to-many")


class Event(Base, HasFiles, Tagged):
    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Form(Base, Tagged):
    __tablename__ = "forms"

    name: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)
    print(sorted(name for name in Base.metadata.tables if "_for_" in name))

    with mgr.schema("towns-bern") as session:
        music = Tag(name="music")
        concert = Event(title="Concert", tags=[music])
        concert.files = [File(name="programme.pdf"), File(name="flyer.pdf")]
        session.add_all([concert, Form(name="choir", title="Join the choir", tags=[music])])

    with mgr.schema("towns-bern") as session:
        tag = session.query(Tag).one()
        print([linked.title for linked in tag.links], tag.links.count())

        # Files belong to their event, and go away with it or when they are taken out.
        concert = session.query(Event).one()
        print([file.name for file in concert.files])
        concert.files.pop()
        session.flush()
        print(session.query(File).count(), "file is left")

        # Tags are shared: the form keeps its tag.
        session.delete(concert)
        session.flush()
        print(session.query(File).count(), [linked.title for linked in tag.links])

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))

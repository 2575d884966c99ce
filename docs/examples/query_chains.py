"""Three queries, read as one list that is shown in pages."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import SessionManager
from onegov_orm.debug import analyze_sql_queries
from onegov_orm.embedded import EmbeddedServer
from onegov_orm.utils import QueryChain


class Base(DeclarativeBase):
    pass


class News(Base):
    __tablename__ = "news"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Event(Base):
    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)
    with mgr.schema("towns-bern") as session:
        session.add_all(News(title=f"News {number}") for number in range(1, 5))
        session.add_all(Event(title=f"Event {number}") for number in range(1, 4))

    with mgr.schema("towns-bern") as session:
        chain = QueryChain[News | Event](
            (session.query(News).order_by(News.id), session.query(Event).order_by(Event.id))
        )
        print(chain.count(), "in all, the first:", chain[0].title)
        for start in range(0, 7, 3):
            print([entry.title for entry in chain[start : start + 3]])

        # The second query is not run where the first one has enough.
        with analyze_sql_queries() as analysis:
            print(len(chain.limit(2).all()), "found with", end=" ")
        print(analysis.count, "statement")
    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))

"""Events whose titles are shown in the language of whoever looks at them."""

from markupsafe import Markup
from sqlalchemy import select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import SessionManager
from onegov_orm.embedded import EmbeddedServer
from onegov_orm.translation import translation_hybrid, translation_markup_hybrid
from onegov_orm.types import HSTORE


class Base(DeclarativeBase):
    pass


class Event(Base):
    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)

    title_translations: Mapped[dict[str, str]] = mapped_column(HSTORE)
    title = translation_hybrid(title_translations)

    text_translations: Mapped[dict[str, str] | None] = mapped_column(HSTORE)
    text = translation_markup_hybrid(text_translations)


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)

    with mgr.schema("towns-bern") as session:
        # A web application sets these for each request.
        mgr.set_locale(default_locale="de", current_locale="de")
        market = Event(title="Markt", text="Obst & Gemüse")
        session.add_all([market, Event(title="Fest", text=Markup("<b>Gratis</b>"))])

        mgr.current_locale = "fr"
        market.title = "Marché"

    # The same statement, in two languages. What is not translated is there in German.
    for locale in ("de", "fr"):
        mgr.current_locale = locale
        with mgr.schema("towns-bern") as session:
            rows = session.execute(select(Event.title, Event.text).order_by(Event.title))
            print(locale, [(row.title, str(row.text)) for row in rows])

    # Filters and bulk updates are about the current language, too.
    with mgr.schema("towns-bern") as session:
        is_market = Event.title == "Marché"
        session.execute(update(Event).where(is_market).values({Event.title: "Foire"}))
        print(
            session.scalars(select(Event.title_translations).where(Event.title == "Foire")).all()
        )

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))

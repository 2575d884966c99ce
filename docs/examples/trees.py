"""The pages of a town's site: paths, sorted siblings, moves, and kinds of pages."""

from collections.abc import Mapping

from sqlalchemy.orm import Mapped

from onegov_orm import SessionManager, TreeError
from onegov_orm.abstract import AdjacencyList, AdjacencyListCollection
from onegov_orm.embedded import EmbeddedServer


class Page(AdjacencyList):
    __tablename__ = "pages"

    lead: Mapped[str | None]


class News(Page):
    __mapper_args__: Mapping[str, str] = {"polymorphic_identity": "news"}


class Pages(AdjacencyListCollection[Page]):
    __listclass__ = Page


def show(page: Page) -> None:
    print(page.path, [child.name for child in page.children])


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Page)

    with mgr.schema("towns-bern") as session:
        pages = Pages(session)
        town = pages.add_root("Unsere Stadt")

        # Siblings that are sorted by their titles stay so.
        for title in ("Wohnen", "Bildung", "Öffentlicher Verkehr"):
            pages.add(town, title, lead=f"Alles über {title}")
        show(town)

        # A title that is there already gets another name.
        pages.add(town, "Bildung", type="news")
        show(town)

        # Whoever moves something sorts by hand from then on: new pages come last.
        education, _news, traffic, living = town.children
        pages.move_above(living, education)
        pages.add(town, "Abfall")
        show(town)

        # One query finds a page, however deep it is.
        pages.add(living, "Umzug melden")
        page = pages.by_path("/unsere-stadt/wohnen/umzug-melden/")
        assert page is not None
        print([above.title for above in page.ancestors])

        # Another parent: the page comes last there. None makes it a root.
        page.parent = traffic
        print(page.path)
        try:
            town.parent = page
        except TreeError as error:
            print(error)

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))

"""All of the toolbox in one application, two customers side by side."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from markupsafe import Markup
from sqlalchemy import select

from onegov_orm.debug import analyze_sql_queries
from tests.toolbox.conftest import NewTowns
from tests.typing.models_all import App, Base, Comment, File, Page, Pages

NOW = datetime.now(UTC)


def fill(session: Any, town: str) -> None:
    pages = Pages(session)
    news = pages.add_root(f"{town} news", day=date(2026, 1, 2))
    pages.add(news, f"{town} late", publication_start=NOW + timedelta(days=1))
    first = pages.add_root(f"{town} about")
    news.keywords.append(town)
    news.priority = 2
    news.text = f"<{town}>"
    news.label = town
    news.files.append(File(name=f"{town}.pdf"))
    news.comments.append(Comment(first_name=" Ada ", email=f"Ada@{town}", written=NOW))
    pages.move_above(news, first)


def test_everything_works_together_and_apart(new_town: NewTowns, dsn: str) -> None:
    mgr = new_town(Base, dsn=dsn)
    mgr.set_locale("de_CH", "fr_CH")
    app = App(mgr)
    for town in ("bern", "thun"):
        with mgr.schema(f"towns-{town}") as session:
            fill(session, town)
    for town in ("bern", "thun") * 2:
        with mgr.schema(f"towns-{town}") as session, analyze_sql_queries():
            assert app.titles == [f"{town} news", f"{town} about"]
            assert app.urgent == 1
            news, about = app.pages
            assert (news.comment_count, about.comment_count) == (1, 0)
            assert (news.slug_of_day, news.keywords) == ("2026-01-02", [town])
            assert news.text == Markup(f"&lt;{town}&gt;")
            assert news.comments[0].first_name == "Ada"
            assert [file.name for file in news.files] == [f"{town}.pdf"]
            assert [page.title for page in news.files[0].links] == [news.title]
            query = select(Page.title).where(Page.label == town, Page.priority > 1)
            assert session.scalars(query).all() == [news.title]
            assert news.session_manager is mgr
    with mgr.schema("towns-bern") as session:
        session.delete(session.scalars(select(Comment)).one())
    with mgr.schema("towns-bern"):
        assert app.pages[0].comment_count == 0
    with mgr.schema("towns-thun"):
        assert app.pages[0].comment_count == 1

"""`LowercaseText` and `MarkupText`: one form of a text, written, read and compared."""

from __future__ import annotations

from typing import Any

import pytest
from markupsafe import Markup
from sqlalchemy import (
    Text,
    any_,
    bindparam,
    cast,
    func,
    insert,
    literal,
    null,
    select,
    text,
    union,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from onegov_orm.types import LowercaseText, MarkupText
from tests.toolbox.typed import kept, typed_fixture, with_session


class Base(DeclarativeBase):
    """A base of its own."""


class User(Base):
    """Somebody with a name that has no case."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(LowercaseText, primary_key=True)
    other: Mapped[str | None] = mapped_column(LowercaseText)
    title: Mapped[str | None] = mapped_column(Text)


class Page(Base):
    """Something with markup."""

    __tablename__ = "pages"

    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[Markup | None] = mapped_column(MarkupText)


typed = typed_fixture(Base)


def users(session: Session, *criteria: Any) -> bool:
    return session.scalar(select(func.count()).select_from(User).where(*criteria)) == 1


def pages(session: Session, *criteria: Any) -> bool:
    return session.scalar(select(func.count()).select_from(Page).where(*criteria)) == 1


def add_ada(session: Session) -> None:
    session.add(User(name="Ada@Example.ORG", title="ADA@example.org"))
    session.flush()


def raw(session: Session, column: str, table: str) -> str | None:
    return session.scalar(text(f"SELECT {column} FROM {table}"))


@with_session
def test_text_is_written_in_lowercase(session: Session) -> None:
    add_ada(session)
    assert raw(session, "name", "users") == "ada@example.org"
    session.execute(insert(User).values(name="X", other="YÄ"))
    session.execute(update(User).where(User.name == "x").values(other="ZÄ"))
    assert session.scalar(select(User.other).where(User.name == "X")) == "zä"


@with_session
def test_an_object_has_the_lowercase_text_at_once(session: Session) -> None:
    user = User(name="Ada", other=None)
    assert (user.name, user.other) == ("ada", None)
    session.add(user)
    session.flush()
    assert session.get(User, "ada") is user
    assert session.scalars(select(User)).one() is user


@with_session
def test_another_case_is_no_change(session: Session) -> None:
    user = kept(session, User(name="ada", other="text"))
    assert user.other == "text"
    user.other = "TEXT"
    assert not session.is_modified(user)


@with_session
def test_values_are_compared_in_lowercase(session: Session) -> None:
    add_ada(session)
    assert users(session, User.name == "ADA@example.org", User.name <= "ADA@example.org")
    assert not users(session, User.name != "ADA@example.org")
    assert users(session, User.name.in_(["X", "ADA@example.org"]))
    assert not users(session, User.name.not_in(["X", "ADA@example.org"]))
    assert users(session, User.name.between("ADA", "ADB"))
    assert users(session, User.name.is_distinct_from("X"), User.other.is_(None))


@with_session
def test_patterns_are_compared_in_lowercase(session: Session) -> None:
    add_ada(session)
    assert (
        users(session, User.name.like("ADA@%"), User.name.like("%O_G", escape="O"), True) is False
    )
    assert users(session, User.name.like("ADA@%"), User.name.ilike("%.ORG"))
    assert users(session, User.name.like("ADAX@%", escape="X"))
    assert users(session, User.name.startswith("ADA"), User.name.endswith("ORG"))
    assert users(
        session, User.name.contains("EXAMPLE"), User.name.contains("A@E", autoescape=True)
    )
    assert not users(session, User.name.not_like("ADA%"))


@with_session
def test_expressions_are_compared_in_lowercase(session: Session) -> None:
    add_ada(session)
    assert users(session, User.name == User.title, User.name.in_([User.title, "X"]))
    assert users(session, User.name == func.concat("ADA", "@Example.org"))
    assert users(session, User.name == literal("ADA@EXAMPLE.ORG", Text))
    assert users(session, User.name.startswith(func.left(User.title, 3)))
    assert users(session, User.name.like(User.title), User.name.between(User.title, User.title))
    assert users(session, User.name.is_distinct_from(User.other), User.other == null())


@with_session
def test_subqueries_are_compared_in_lowercase(session: Session) -> None:
    add_ada(session)
    titles = select(User.title)
    assert users(session, User.name.in_(titles), User.name == titles.scalar_subquery())
    assert users(session, User.name.in_(union(titles, select(literal("X", Text)))))
    assert users(session, User.name.in_(select(User.name)))
    assert users(session, User.name == any_(select(User.name).scalar_subquery()))


@with_session
def test_parameters_that_come_later_are_lowercase(session: Session) -> None:
    add_ada(session)
    statement = select(User.title).where(User.name == bindparam("name"))
    assert session.scalar(statement, {"name": "ADA@EXAMPLE.ORG"})
    several = select(User.title).where(User.name.in_(bindparam("names", expanding=True)))
    assert session.scalar(several, {"names": ["ADA@EXAMPLE.ORG"]})


@with_session
def test_literals_are_lowercase(session: Session) -> None:
    add_ada(session)
    assert users(
        session, User.name == literal("ADA@EXAMPLE.ORG", LowercaseText(), literal_execute=True)
    )


def test_columns_of_the_type_are_compared_as_they_are() -> None:
    assert str(User.name == User.other) == "users.name = users.other"
    assert str(User.name == User.title) == "users.name = lower(users.title)"


@with_session
def test_what_is_put_together_is_ordinary_text(session: Session) -> None:
    add_ada(session)
    assert session.scalar(select(User.name + " ADA")) == "ada@example.org ADA"
    assert session.scalar(select("ADA " + User.name)) == "ADA ada@example.org"
    assert users(session, User.name.concat(" ADA") == "ada@example.org ADA")


@with_session
def test_regular_expressions_stay_as_they_are(session: Session) -> None:
    add_ada(session)
    assert users(session, User.name.regexp_match(r"^\S+@\w+\.org$"))
    assert users(session, User.name.op("~")(r"^\S+$"))
    assert session.scalar(select(User.name.regexp_replace(r"@.*", "X"))) == "adaX"


@with_session
def test_lowercase_text_orders_rows(session: Session) -> None:
    session.add_all([User(name="B"), User(name="a")])
    session.flush()
    assert session.scalars(select(User.name).order_by(User.name.desc())).all() == ["b", "a"]


@with_session
def test_plain_text_is_escaped_when_written(session: Session) -> None:
    page: Any = kept(session, Page(body="a < 'b' & \"c\""))  # type: ignore[arg-type]
    assert type(page.body) is Markup
    assert page.body == Markup("a &lt; &#39;b&#39; &amp; &#34;c&#34;")


@with_session
def test_markup_is_written_as_it_is(session: Session) -> None:
    page: Any = kept(session, Page(body=Markup("<b>it's</b>")))
    assert page.body == Markup("<b>it's</b>")
    assert type(page.body) is Markup
    assert raw(session, "body", "pages") == "<b>it's</b>"


@with_session
def test_an_object_has_the_markup_at_once(session: Session) -> None:
    page: Any = Page(body="<b>")  # type: ignore[arg-type]
    assert page.body == Markup("&lt;b&gt;")
    page.body = None
    assert kept(session, page).body is None


@with_session
def test_bulk_inserts_escape_plain_text(session: Session) -> None:
    session.execute(insert(Page), [{"body": "<b>"}, {"body": Markup("<i>")}])
    assert set(session.scalars(select(Page.body))) == {Markup("&lt;b&gt;"), Markup("<i>")}


@with_session
def test_markup_is_compared_with_what_was_written(session: Session) -> None:
    session.add(Page(body=Markup("<p>{}</p>").format("salt & pepper")))
    session.flush()
    assert pages(session, Page.body == Markup("<p>salt &amp; pepper</p>"))
    assert pages(session, Page.body.contains("salt & p"), Page.body.startswith(Markup("<p>")))
    assert not pages(session, Page.body.startswith("<p>"))
    assert pages(session, Page.body.in_(["x", Markup("<p>salt &amp; pepper</p>")]))


@pytest.mark.parametrize("value", ["it's <b>", Markup("it's <b>"), "' OR '1'='1", "100% \\"])
@with_session
def test_markup_is_rendered_as_a_literal(session: Session, value: str) -> None:
    session.add(Page(body=value))  # type: ignore[arg-type]
    session.flush()
    written = literal(value, MarkupText(), literal_execute=True)
    assert pages(session, Page.body == written)
    assert session.scalar(select(written)) == session.scalar(select(Page.body))


@with_session
def test_markup_that_is_put_together_is_markup(session: Session) -> None:
    session.add(Page(body=Markup("<b>")))
    session.flush()
    assert session.scalar(select(Page.body + " & ")) == Markup("<b> &amp; ")
    assert type(session.scalar(select(func.max(Page.body)))) is Markup
    assert session.scalar(select(cast(Page.body, Text))) == "<b>"

"""Translated attributes: the same in Python and in queries, by whoever's locale it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from sqlalchemy import event, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from onegov_orm import NoCurrentLocale
from onegov_orm.errors import ConfigurationError
from onegov_orm.translation import translation_hybrid, translation_markup_hybrid
from onegov_orm.types import HSTORE, JSON
from tests.asynchronous import in_loop


class Base(DeclarativeBase):
    pass


class Described:
    """A mixin with a translated text."""

    about_translations: Mapped[dict[str, str] | None] = mapped_column(postgresql.HSTORE)
    about = translation_hybrid(about_translations)


class Event(Described, Base):
    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    title_translations: Mapped[dict[str, str] | None] = mapped_column("names", HSTORE)
    title = translation_hybrid(title_translations)
    html_translations: Mapped[dict[str, str] | None] = mapped_column(postgresql.HSTORE)
    html = translation_markup_hybrid(html_translations)
    json_translations: Mapped[dict[str, Any] | None] = mapped_column(postgresql.JSON)
    json = translation_hybrid(json_translations)
    jsonb_translations: Mapped[dict[str, Any] | None] = mapped_column(postgresql.JSONB)
    jsonb = translation_hybrid(jsonb_translations)
    own_translations: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    own = translation_markup_hybrid(own_translations)


NAMES = ["about", "title", "html", "json", "jsonb", "own"]
each_name = pytest.mark.parametrize("name", NAMES)


def ready(manager, default="de", current="fr"):
    manager.set_locale(default, current)
    return manager


@pytest.fixture
def mgr(new_town):
    return ready(new_town(Base))


@pytest.fixture
def session(mgr):
    return mgr.session()


def column(name):
    return getattr(Event, name)


def saved(session, **values):
    session.add(Event(**values))
    session.flush()
    return session.scalars(select(Event)).one()


def reread(session):
    session.expire_all()
    return session.scalars(select(Event)).one()


# -- in Python


@each_name
def test_the_translation_of_the_current_locale(mgr, name):
    obj = Event(**{f"{name}_translations": {"de": "nein", "fr": "non"}})
    assert getattr(obj, name) == "non"
    mgr.current_locale = "de"
    assert getattr(obj, name) == "nein"


@pytest.mark.parametrize("translations", [{"de": "nein"}, {"de": "nein", "fr": None}])
def test_what_is_not_translated_falls_back_to_the_default_locale(mgr, translations):
    assert Event(title_translations=translations).title == "nein"
    assert Event(title_translations={"de": "nein", "fr": ""}).title == ""


@pytest.mark.parametrize("translations", [None, {}, {"it": "no"}])
def test_what_has_no_translation_at_all_is_none(mgr, translations):
    assert Event(title_translations=translations).title is None
    assert Event(html_translations=translations).html is None


@pytest.mark.parametrize("locales", [("de", None), (None, "de")])
def test_one_locale_is_enough(mgr, session, locales):
    mgr.set_locale(*locales)
    assert saved(session, title_translations={"de": "nein"}).title == "nein"
    assert session.scalars(select(Event.title)).one() == "nein"


@each_name
def test_setting_writes_the_current_translation(mgr, session, name):
    obj = saved(session, **{name: "non"})
    mgr.current_locale = "it"
    setattr(obj, name, "no")
    session.flush()
    found = getattr(reread(session), f"{name}_translations")
    assert found == {"fr": "non", "it": "no"}


@each_name
def test_deleting_removes_the_current_translation(mgr, session, name):
    obj = saved(session, **{f"{name}_translations": {"de": "nein", "fr": "non"}})
    delattr(obj, name)
    delattr(obj, name)
    session.flush()
    assert getattr(reread(session), name) == "nein"


def test_a_text_that_stays_the_same_is_no_change(session):
    obj = saved(session, title="non")
    obj.title = "non"
    del obj.about
    assert not session.is_modified(obj)


# -- in queries


def test_filter_order_and_group(dsn, new_manager):
    mgr = ready(new_manager(dsn, Base))
    mgr.set_current_schema("towns-bern")
    session = mgr.session()
    for name in NAMES:
        session.execute(sa.delete(Event))
        texts = [{"de": "c"}, {"de": "x", "fr": "b"}, {"de": "a"}, {"fr": "b"}]
        session.add_all(Event(**{f"{name}_translations": each}) for each in texts)
        rows = session.execute(select(column(name)).order_by(column(name))).all()
        assert [getattr(row, name) for row in rows] == ["a", "b", "b", "c"]
        assert session.query(Event).filter(column(name) == "b").count() == 2
        assert session.query(Event).filter_by(**{name: "c"}).count() == 1
        counted = session.execute(
            select(column(name), func.count()).group_by(column(name)).order_by(column(name))
        ).all()
        assert counted == [("a", 1), ("b", 2), ("c", 1)]


@in_loop
async def test_queries_under_asyncio(async_plain_dsn, new_async_manager):
    mgr = ready(new_async_manager(async_plain_dsn, Base))
    async with mgr.schema("towns-bern") as session:
        for name in NAMES:
            session.add(Event(**{f"{name}_translations": {"de": "nein"}}))
            statement = select(column(name), func.count()).group_by(column(name))
            found = (await session.execute(statement.where(column(name) == "nein"))).all()
            assert found == [("nein", 1)]
            await session.execute(update(Event).values({column(name): "non"}))
            assert set(await session.scalars(select(column(name)))) == {"non"}


def test_an_alias(session):
    saved(session, title="a")
    one, other = aliased(Event), aliased(Event)
    statement = select(one.title, other.title).where(one.title == other.title)
    assert session.execute(statement).all() == [("a", "a")]


def test_a_cached_statement_follows_the_locale(mgr, session):
    saved(session, title_translations={"de": "nein", "fr": "non"})
    hits = []

    @event.listens_for(mgr.engine, "before_cursor_execute")
    def note(connection, cursor, statement, parameters, context, executemany):
        hits.append(context.cache_hit.name)

    found = []
    for locale in ("de", "fr", "it"):
        mgr.current_locale = locale
        found.append(session.scalars(select(Event.title)).one())
    assert found == ["nein", "non", "nein"]
    assert hits == ["CACHE_MISS", "CACHE_HIT", "CACHE_HIT"]


def test_a_locale_is_no_sql(mgr, session):
    saved(session, title_translations={"de": "nein"})
    mgr.current_locale = "x') OR ('1' = '1"
    assert session.scalars(select(Event.title)).one() == "nein"
    assert "OR" not in str(select(Event.title))


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=3)
LOCALES = st.sampled_from(["de", "fr", "de_CH", "'"])
TRANSLATIONS = st.none() | st.dictionaries(LOCALES, TEXTS | st.none(), max_size=3)


def test_python_and_sql_agree(mgr, session):
    @settings(max_examples=60, deadline=None)
    @given(TRANSLATIONS, LOCALES | st.none(), LOCALES)
    def agree(translations, default, current):
        mgr.set_locale(default, current)
        values = {f"{name}_translations": translations for name in NAMES}
        obj = Event(**values)
        session.add(obj)
        session.flush()
        row = session.execute(select(*map(column, NAMES)).filter_by(id=obj.id)).one()
        assert list(row) == [getattr(obj, name) for name in NAMES]
        session.refresh(obj)
        assert list(row) == [getattr(obj, name) for name in NAMES]

    agree()


# -- bulk updates


@each_name
@pytest.mark.parametrize("translations", [None, {"de": "nein", "fr": "x"}])
def test_a_bulk_update(session, name, translations):
    obj = saved(session, **{f"{name}_translations": translations})
    session.execute(update(Event).values({column(name): "<non>"}))
    expected = "&lt;non&gt;" if name in ("html", "own") else "<non>"
    session.expire_all()
    assert getattr(obj, f"{name}_translations") == {**(translations or {}), "fr": expected}
    session.execute(update(Event).values(**{name: None}))
    assert getattr(reread(session), name) == (translations or {}).get("de")


def test_a_bulk_update_with_an_expression_is_announced(mgr, session):
    told = []
    mgr.on_update.connect(lambda schema, obj: told.append(obj.title), weak=False)
    saved(session, title="non", about="!")
    session.execute(update(Event).values({Event.title: Event.title + Event.about}))
    assert told == ["non!"]


# -- whose locale


def test_without_a_locale(mgr, session):
    obj = saved(session, title="non")
    mgr.set_locale(None, None)
    for ask in (
        lambda: obj.title,
        lambda: Event(title="non"),
        lambda: session.scalars(select(Event.title)).one(),
    ):
        with pytest.raises(NoCurrentLocale, match="set_locale"):
            ask()


def test_without_a_manager():
    from contextvars import Context

    with pytest.raises(NoCurrentLocale, match="set_active"):
        Context().run(lambda: Event(title="non"))


def test_objects_and_queries_follow_the_manager_of_their_session(new_town):
    one, other = ready(new_town(Base), "de", "de"), ready(new_town(Base), "fr", "fr")
    found = []
    for mgr in (one, other, one):
        obj = Event(title_translations={"de": "nein", "fr": "non"})
        mgr.session().add(obj)
        mgr.session().flush()
        found.append((obj.title, mgr.session().scalars(select(Event.title)).first()))
    assert found == [("nein", "nein"), ("non", "non"), ("nein", "nein")]


def test_an_autoflush_that_uses_another_manager_changes_nothing(new_town):
    one, other = ready(new_town(Base), "de", "de"), ready(new_town(Base), "fr", "fr")
    one.on_insert.connect(lambda schema, obj: other.session().scalar(select(1)), weak=False)
    one.session().add(Event(title_translations={"de": "nein", "fr": "non"}))
    assert one.session().scalars(select(Event.title)).one() == "nein"


def test_new_objects_follow_the_manager_whose_schema_was_set(new_town):
    one = ready(new_town(Base), "de", "de")
    assert Event(title="a").title_translations == {"de": "a"}
    other = ready(new_town(Base), "fr", "fr")
    assert Event(title="a").title_translations == {"fr": "a"}
    with one.schema(one.current_schema):
        assert Event(title="a").title_translations == {"de": "a"}
    assert Event(title="a").title_translations == {"fr": "a"}
    assert other.get_active() is other


def test_objects_that_outlive_their_block_follow_the_last_manager(new_town):
    mgr = ready(new_town(Base))
    schema = mgr.current_schema
    mgr.deactivate()
    with mgr.schema(schema) as session:
        obj = saved(session, title_translations={"fr": "non"})
    assert mgr.get_active() is None
    assert obj.title == "non"


@in_loop
async def test_tasks_never_mix(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    locales = ["de", "fr", "it"]
    async with mgr.schema("towns-bern") as session:
        session.add(Event(title_translations={each: each for each in locales}))

    async def read(locale):
        mgr.set_locale("de", locale)
        found = set()
        for _ in range(5):
            async with mgr.schema("towns-bern") as session:
                found.add((await session.scalars(select(Event.title))).one())
                found.add((await session.scalars(select(Event))).one().title)
        return found

    found = await asyncio.gather(*(read(each) for each in locales * 3))
    assert found == [{each} for each in locales * 3]


# -- markup


def test_markup_is_escaped_once(session):
    obj = Event(html='<a href="x">', own=Markup('<a href="x">'))
    assert type(obj.html_translations["fr"]) is type(obj.own_translations["fr"]) is str
    session.add(obj)
    session.flush()
    obj = reread(session)
    assert (obj.html, obj.own) == ("&lt;a href=&#34;x&#34;&gt;", '<a href="x">')
    row = session.execute(select(Event.html, Event.own)).one()
    for value in (obj.html, obj.own, row.html, row.own):
        assert isinstance(value, Markup)
    assert tuple(row) == (obj.html, obj.own)


@in_loop
async def test_quotes_of_markup_survive_each_driver(async_plain_dsn, new_async_manager):
    mgr = ready(new_async_manager(async_plain_dsn, Base))
    link = Markup('<a href="x">')
    async with mgr.schema("towns-bern") as session:
        session.add(Event(**{f"{name}_translations": {"fr": "x"} for name in NAMES}))
        (await session.scalars(select(Event))).one().html = link
        assert (await session.scalars(select(Event.html))).one() == link


@each_name
def test_a_subquery_has_the_attribute_under_its_name(session, name):
    saved(session, **{name: "a"})
    subquery = select(column(name)).subquery()
    assert session.scalars(select(subquery.c[name])).one() == "a"


# -- mistakes


def test_a_column_that_is_nowhere():
    with pytest.raises((ConfigurationError, RuntimeError)) as caught:

        class Other:
            title = translation_hybrid(mapped_column(postgresql.HSTORE))

    error = caught.value.__cause__ or caught.value
    assert "Other.title" in str(error)


def test_a_column_that_holds_no_translations():
    class Other(DeclarativeBase):
        pass

    class Thing(Other):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        names: Mapped[str] = mapped_column()
        name = translation_hybrid(names)

    with pytest.raises(ConfigurationError, match="HSTORE"):
        select(Thing.name)

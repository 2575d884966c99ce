"""Titles that change: what was sorted stays sorted, what was not is left alone."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase

from onegov_orm.abstract import AdjacencyListCollection, AdjacencyListMixin
from tests.toolbox.trees import Base, Page, Pages, insert_rows, sent, stored_titles, titles


@pytest.fixture
def mgr(new_town):
    return new_town(Base)


@pytest.fixture
def pages(mgr):
    return Pages(mgr.session())


def roots(pages, *titles):
    return [pages.add_root(title) for title in titles]


def test_an_item_keeps_its_place_among_sorted_siblings(pages):
    _a, b, _c = roots(pages, "a", "b", "c")
    b.title = "d"
    assert stored_titles(pages.session) == ["a", "c", "d"]
    b.title = "Ä"
    assert stored_titles(pages.session) == ["a", "Ä", "c"]


def test_one_update_writes_the_title_and_the_place(mgr, pages):
    _a, b, _c = roots(pages, "a", "b", "c")
    with sent(mgr, "UPDATE") as statements:
        b.title = "d"
        pages.session.flush()
    assert len(statements) == 1


def test_the_place_is_kept_if_the_title_sorts_the_same(mgr, pages):
    _a, b, _c = roots(pages, "a", "b", "c")
    before = b.order
    b.title = "bb"
    pages.session.flush()
    assert b.order == before


def test_siblings_that_were_not_sorted_stay_where_they_are(pages):
    a, b, c = roots(pages, "a", "b", "c")
    pages.move_above(c, a)
    b.title = "z"
    assert stored_titles(pages.session) == ["c", "a", "z"]


def test_an_order_that_is_set_together_with_the_title_is_respected(pages):
    _a, b, _c = roots(pages, "a", "b", "c")
    b.title, b.order = "z", Decimal(-9)
    assert stored_titles(pages.session) == ["z", "a", "c"]


def test_an_item_that_was_not_loaded_keeps_its_place_too(pages):
    _a, b, _c = roots(pages, "a", "b", "c")
    pages.session.expire_all()
    b.title = "z"
    assert stored_titles(pages.session) == ["a", "c", "z"]


def test_siblings_of_equal_order_are_renumbered(pages):
    insert_rows(pages.session, *"abcd")
    _a, b, *_others = pages.roots
    b.title = "cc"
    assert stored_titles(pages.session) == ["a", "c", "cc", "d"]


def test_a_new_item_and_a_changed_one_in_the_same_flush(pages):
    _a, b, _c = roots(pages, "a", "b", "c")
    b.title = "z"
    pages.session.add(Page(title="m"))
    assert sorted(stored_titles(pages.session)) == ["a", "c", "m", "z"]


def test_an_item_that_gets_another_parent_and_title_comes_last(pages):
    a, b = roots(pages, "a", "b")
    pages.add(b, "z")
    child = pages.add(a, "y")
    child.title, child.parent = "x", b
    assert stored_titles(pages.session, b.id) == ["z", "x"]


def test_the_models_sort_key_is_used(new_town):
    class OwnBase(DeclarativeBase):
        pass

    class Year(AdjacencyListMixin, OwnBase):
        __tablename__ = "years"

        @property
        def sort_key(self):
            return lambda item: -int(item.title)

    class Years(AdjacencyListCollection[Year]):
        __listclass__ = Year

        @staticmethod
        def sort_key(item):
            return -int(item.title)

    years = Years(new_town(OwnBase).session())
    _a, b, _c = (years.add_root(title) for title in ("2001", "2002", "2003"))
    b.title = "1999"
    years.session.flush()
    assert titles(years.roots) == ["2003", "2001", "1999"]


letters = st.sampled_from("abcdefghi")


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(letters, min_size=1, max_size=6), st.booleans(), st.data())
def test_whatever_changes_at_once_stays_sorted(mgr, first, is_equal, data):
    session = mgr.session()
    with session.begin_nested() as savepoint:
        order = Decimal(7) if is_equal else None
        items = [
            Page(title=title, name=f"page-{number}", order=order)
            for number, title in enumerate(sorted(first))
        ]
        session.add_all(items)
        session.flush()
        for _round in range(2):
            for item in data.draw(st.lists(st.sampled_from(items), unique=True)):
                item.title = data.draw(letters)
            stored = stored_titles(session)
            assert stored == sorted(stored)
        savepoint.rollback()

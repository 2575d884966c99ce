"""Where new items come: sorted among sorted siblings, else at the end."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import select

from onegov_orm.abstract import sort_siblings
from tests.toolbox.trees import Base, News, Page, Pages, Topic, sent, stored_titles, titles

ODD_TITLES = [
    "", "???", "None", "null", "🎉", "🎉🎉", "שלום", "مرحبا", "1", "10", "2", "äpfel", "Apfel",
    "apfel", "Äpfel", "Zürich", "zuerich", "ß", "北京", "\u202egnp", "\t", " a",
    "a" * 5000, "a" * 4999 + "b",
]  # fmt: skip


@pytest.fixture
def mgr(new_town):
    return new_town(Base)


@pytest.fixture
def pages(mgr):
    return Pages(mgr.session())


def test_items_are_added_in_the_order_of_their_titles(pages):
    root = pages.add_root("Root")
    for title in ("e", "C", "a", "ä", "d", "B"):
        pages.add(root, title)
    assert stored_titles(pages.session, root.id) == ["a", "ä", "B", "C", "d", "e"]


def test_once_siblings_are_unsorted_items_are_added_at_the_end(pages):
    a, _b, c = (pages.add_root(title) for title in "abc")
    pages.move_above(c, a)
    pages.add_root("aa")
    assert titles(pages.roots) == ["c", "a", "b", "aa"]
    sort_siblings(pages.roots, pages.sort_key)
    pages.add_root("bb")
    assert titles(pages.roots) == ["a", "aa", "b", "bb", "c"]


def test_an_order_that_is_given_is_respected(pages):
    for title, order in (("a", 3), ("b", 1), ("c", 2.5), ("d", Decimal("2.4"))):
        pages.add_root(title, order=order)
    assert titles(pages.roots) == ["b", "d", "c", "a"]


def test_an_order_of_zero_is_an_order(pages):
    for title in "cba":
        pages.add_root(title)
    assert [page.order for page in pages.roots] == [-1, 0, 1]
    pages.add_root("aa")
    assert titles(pages.roots) == ["a", "aa", "b", "c"]


def test_equal_titles_stand_in_the_order_in_which_they_were_added(pages):
    added = [pages.add_root("Same") for _number in range(5)]
    assert pages.roots == added


def test_odd_titles_never_break_sorting(pages):
    for title in reversed(ODD_TITLES):
        pages.add_root(title)
    found = pages.roots
    assert sorted(titles(found)) == sorted(ODD_TITLES)
    assert found == sorted(found, key=pages.sort_key)
    assert {title: titles(found).index(title) for title in ("Apfel", "Zürich")} == {
        title: sorted(ODD_TITLES, key=lambda each: pages.sort_key(Page(title=each))).index(title)
        for title in ("Apfel", "Zürich")
    }


def test_siblings_of_all_kinds_are_sorted_together(pages):
    for title, kind in (("c", "topic"), ("a", "news"), ("b", None)):
        pages.add_root(title, type=kind)
    assert [type(page) for page in pages.roots] == [News, Page, Topic]


def test_the_sort_key_may_be_another(mgr):
    class NewestFirst(Pages):
        @staticmethod
        def sort_key(item):
            return -int(item.title)

    pages = NewestFirst(mgr.session())
    for title in ("7", "10", "8"):
        pages.add_root(title)
    assert titles(pages.roots) == ["10", "8", "7"]


def test_the_sort_key_may_ask_for_all_that_an_item_has(mgr):
    class ByLead(Pages):
        @staticmethod
        def sort_key(item):
            return item.lead

    pages = ByLead(mgr.session())
    for lead in "bca":
        pages.add_root(f"Title {lead}", type="news", lead=lead)
    assert [page.lead for page in pages.roots] == ["a", "b", "c"]


# -- without the collection


def test_items_that_are_just_added_to_the_session_come_last(pages):
    root = pages.add_root("Root")
    pages.add(root, "m")
    pages.session.add(Page(title="a", parent=root))
    root.children.append(Page(title="b"))
    assert stored_titles(pages.session, root.id) == ["m", "a", "b"]
    pages.session.add(Topic(title="First"))
    assert stored_titles(pages.session) == ["Root", "First"]


def test_many_in_one_flush_keep_their_order_and_take_no_queries(mgr, pages):
    root = pages.add_root("Root")
    numbers = [str(number) for number in (3, 1, 2, *range(10, 40))]
    pages.session.add_all([Page(title=title, parent=root) for title in numbers])
    with sent(mgr) as statements:
        pages.session.flush()
    assert {statement.split()[0] for statement in statements} == {"INSERT"}
    assert stored_titles(pages.session, root.id) == numbers


def test_a_whole_tree_in_one_flush_keeps_its_order(mgr):
    session = mgr.session()
    root = Page(title="Root")
    for title in ("b", "c", "a"):
        child = Page(title=title, parent=root)
        for kind, sub in ((News, "z"), (Topic, "y"), (Page, "x")):
            kind(title=sub, parent=child)
    session.add(root)
    session.flush()
    session.expunge_all()
    root = session.scalars(select(Page).where(Page.parent_id.is_(None))).one()
    assert titles(root.children) == ["b", "c", "a"]
    kinds = [type(page) for page in root.children[1].children]
    assert sorted(kinds, key=str) == sorted([News, Topic, Page], key=str)


def test_an_item_may_be_added_below_one_that_is_not_written_yet(pages):
    root = Page(title="Root")
    child = pages.add(root, "Child")
    assert (child.path, root.id) == ("root/child", child.parent_id)


# -- many of them


@pytest.mark.parametrize("many", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_at_the_front_and_many_in_the_middle_take_few_statements_each(mgr, pages, many):
    front = [f"{number}" for number in range(9000, 9000 + many)]
    middle = [f"{9000 + many // 2}-{number:03}" for number in range(many)]
    root = pages.add_root("Root")
    with sent(mgr) as statements:
        for title in (*reversed(front), *middle):
            pages.add(root, title)
    assert stored_titles(pages.session, root.id) == sorted([*front, *middle])
    # Two queries and an insert, and new numbers for all of them some times.
    assert len(statements) <= 2 * many * 3 + (2 * many // 300 + 1) * 2 * many


def test_many_moved_to_the_front_keep_short_numbers(pages):
    root = pages.add_root("Root")
    pages.session.add_all([Page(title=f"{number}", parent=root) for number in range(100)])
    first, *others = pages.query().filter(Page.parent == root)
    for page in others:
        pages.move_above(page, first)
        first = page
    assert titles(root.children) == [f"{number}" for number in range(99, -1, -1)]
    assert {page.order.as_tuple().exponent for page in root.children} == {0}

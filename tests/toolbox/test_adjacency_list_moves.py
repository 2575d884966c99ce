"""The order of siblings: whatever is moved, and however often, at little cost."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from onegov_orm import TreeError
from onegov_orm.abstract import MoveDirection, sort_siblings
from onegov_orm.abstract._order import MAX_PLACES
from tests.toolbox.trees import Base, Page, Pages, insert_rows, sent, stored_titles, titles


@pytest.fixture
def mgr(new_town):
    return new_town(Base)


@pytest.fixture
def pages(mgr):
    return Pages(mgr.session())


def roots(pages, *titles):
    return [pages.add_root(title) for title in titles]


def test_an_item_is_moved_above_and_below_others(pages):
    a, b, c = roots(pages, "A", "B", "C")
    pages.move_above(c, a)
    assert pages.roots == [c, a, b]
    pages.move_below(c, a)
    assert pages.roots == [a, c, b]
    pages.move(a, b, MoveDirection.below)
    assert pages.roots == [c, b, a]


def test_a_move_is_written_when_it_returns(mgr, pages):
    a, b = roots(pages, "A", "B")
    with pages.session.no_autoflush:
        pages.move_above(b, a)
        assert titles(pages.roots) == ["B", "A"]


def test_a_move_takes_one_query_and_one_update(mgr, pages):
    everything = roots(pages, *(f"{number:03}" for number in range(50)))
    with sent(mgr) as statements:
        pages.move_above(everything[40], everything[7])
        pages.move_below(everything[2], everything[3])
        pages.move_above(everything[20], everything[0])
        pages.move_below(everything[20], everything[49])
    assert [statement.split()[0] for statement in statements] == ["SELECT", "UPDATE"] * 4


def test_a_move_to_where_the_item_stands_changes_nothing(mgr, pages):
    a, b, c = roots(pages, "A", "B", "C")
    a.order, b.order, c.order = Decimal("0.25"), Decimal("1.375"), Decimal(99)
    pages.session.flush()
    with sent(mgr, "UPDATE") as statements:
        pages.move_below(b, a)
        pages.move_above(b, c)
        pages.move_above(a, b)
        pages.move_below(c, b)
    assert not statements
    assert pages.roots == [a, b, c]


def test_a_move_sees_what_is_not_flushed_yet(mgr, pages):
    _a, b, c = roots(pages, "A", "B", "C")
    with pages.session.no_autoflush:
        c.order = Decimal("0.5")
        pages.move_below(b, c)
    assert stored_titles(pages.session) == ["C", "B", "A"]


def test_a_move_is_announced_for_the_moved_item_alone(mgr, pages):
    a, _b, c = roots(pages, "A", "B", "C")
    updated = []
    mgr.on_update.connect(lambda schema, obj: updated.append(obj.title), weak=False)
    pages.move_above(c, a)
    assert updated == ["C"]


def test_moves_are_of_siblings_only(pages):
    a, b = roots(pages, "A", "B")
    child = pages.add(a, "Child")
    for subject, target in ((a, a), (a, child), (child, a), (child, b)):
        for direction in MoveDirection:
            with pytest.raises(TreeError):
                pages.move(subject, target, direction)
    with pytest.raises(ValueError, match="sideways"):
        pages.move(a, b, "sideways")
    assert pages.roots == [a, b]


# -- rows that come from elsewhere


@pytest.mark.parametrize("direction", MoveDirection)
def test_siblings_of_equal_order_can_be_moved(pages, direction):
    insert_rows(pages.session, *"ABCDE")
    a, b, c, d, e = pages.roots
    pages.move(e, c, direction)
    expected = [a, b, e, c, d] if direction is MoveDirection.above else [a, b, c, e, d]
    assert pages.roots == expected
    assert titles(expected) == stored_titles(pages.session)


def test_siblings_of_equal_order_are_renumbered_once(mgr, pages):
    insert_rows(pages.session, *"ABCDE")
    a, b, c, d, e = pages.roots
    with sent(mgr, "UPDATE") as statements:
        pages.move_above(e, c)
    assert len(statements) == 6
    with sent(mgr, "UPDATE") as statements:
        pages.move_above(d, b)
    assert len(statements) == 1
    assert pages.roots == [a, d, b, e, c]


def test_renumbering_is_announced(mgr, pages):
    insert_rows(pages.session, *"ABC")
    updated = set()
    mgr.on_update.connect(lambda schema, obj: updated.add(obj.title), weak=False)
    a, _b, c = pages.roots
    pages.move_below(a, a.siblings.all()[1])
    assert updated == {"A", "B", "C"}
    assert titles(pages.roots) == ["B", "A", "C"]
    assert c.order > a.order


def test_the_ends_of_siblings_of_equal_order_need_no_renumbering(mgr, pages):
    insert_rows(pages.session, *"ABC")
    a, b, c = pages.roots
    with sent(mgr, "UPDATE") as statements:
        pages.move_above(b, a)
        pages.move_below(a, c)
    assert len(statements) == 2
    assert pages.roots == [b, c, a]


def test_keys_that_differ_in_their_last_of_many_digits_are_told_apart(pages):
    a, b, c = roots(pages, "A", "B", "C")
    a.order = Decimal("1." + "0" * 60 + "1")
    b.order = Decimal("1." + "0" * 60 + "2")
    with localcontext(prec=5):
        pages.move_below(c, a)
        assert stored_titles(pages.session) == ["A", "C", "B"]
    pages.session.expire_all()
    assert a.order < c.order < b.order


# -- other ways to a place


def test_an_item_that_gets_another_parent_comes_last_there(mgr, pages):
    a, b = roots(pages, "A", "B")
    for title in "XYZ":
        pages.add(b, title)
    subject = pages.add(a, "M")
    subject.parent = b
    assert stored_titles(pages.session, b.id) == ["X", "Y", "Z", "M"]
    subject.parent = None
    assert pages.roots == [a, b, subject]


def test_an_item_that_gets_another_parent_by_id_comes_last_there(pages):
    a, b = roots(pages, "A", "B")
    pages.add(b, "Z")
    subject = pages.add(a, "M")
    subject.parent_id = b.id
    assert subject.parent is b
    assert stored_titles(pages.session, b.id) == ["Z", "M"]


def test_an_order_that_is_given_with_another_parent_is_respected(pages):
    a, b = roots(pages, "A", "B")
    pages.add(b, "Z")
    subject = pages.add(a, "M")
    subject.parent, subject.order = b, Decimal(-5)
    assert stored_titles(pages.session, b.id) == ["M", "Z"]


def test_the_same_parent_given_again_moves_nothing(mgr, pages):
    a = pages.add_root("A")
    first, _second = pages.add(a, "First"), pages.add(a, "Second")
    pages.session.expire_all()
    first.parent = pages.by_name("a")
    first.parent_id = a.id
    assert stored_titles(pages.session, a.id) == ["First", "Second"]


def test_siblings_are_sorted_by_any_key(mgr, pages):
    roots(pages, "b", "a", "c")
    with sent(mgr, "UPDATE") as statements:
        sort_siblings(pages.roots, key=lambda page: page.title, reverse=True)
        assert stored_titles(pages.session) == ["c", "b", "a"]
        sort_siblings(pages.roots, key=lambda page: page.title, reverse=True)
        pages.session.flush()
    assert len(statements) == 3


@pytest.mark.parametrize("order", ["NaN", "Infinity", "first", float("nan")])
def test_an_order_has_to_be_a_number_with_a_place(pages, order):
    with pytest.raises(TreeError, match="no number"):
        pages.add_root("A", order=order)


@pytest.mark.parametrize("order", [7, 7.25, "7.5", Decimal("-1e-30")])
def test_any_number_is_an_order(pages, order):
    page = pages.add_root("A", order=order)
    pages.session.refresh(page)
    assert page.order == Decimal(str(order))


def test_an_order_may_be_an_expression(pages):
    a, _b, c = roots(pages, "A", "B", "C")
    a.order = Page.order + 5
    assert titles(pages.roots) == ["B", "C", "A"]
    pages.session.execute(update(Page).values(order=-Page.order))
    assert titles(pages.roots) == ["A", "C", "B"]
    assert c.order == -3


# -- against a plain list

operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "append", "above", "below", "tie"]), st.integers(0), st.integers(0)
    ),
    max_size=25,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations)
def test_the_database_has_the_order_that_a_plain_list_would_have(mgr, done):
    with mgr.session().begin_nested() as savepoint:
        pages = Pages(mgr.session())
        expected: list[Page] = []
        for number, (what, first, second) in enumerate(done):
            apply(pages, expected, number, what, first, second)
            assert stored_titles(pages.session) == titles(expected)
        savepoint.rollback()


def apply(pages, expected, number, what, first, second):
    if what in ("add", "append") or len(expected) < 2:
        page = Page(title=str(number))
        if what == "append":
            pages.session.add(page)
            pages.session.flush()
        else:
            # The titles are unsorted as soon as anything has been moved, then it comes last.
            order = min((each.order for each in expected), default=Decimal(0)) - 1
            page = pages.add_root(str(number), order=order)
        expected.insert(0 if what != "append" else len(expected), page)
        return
    subject = expected[first % len(expected)]
    others = [each for each in expected if each is not subject]
    target = others[second % len(others)]
    if what == "tie":
        # As it comes from elsewhere: two with the same number, of which the older is first.
        neighbours = sorted([subject, target], key=lambda each: each.id)
        keys = {each: each.order for each in expected}
        keys[subject] = target.order
        subject.order = target.order
        expected.sort(key=lambda each: (keys[each], each.id))
        assert expected.index(neighbours[0]) < expected.index(neighbours[1])
        return
    before = {each.id: each.order for each in expected}
    pages.move(subject, target, MoveDirection[what])
    expected.remove(subject)
    expected.insert(expected.index(target) + (what == "below"), subject)
    changed = [each for each in expected if before[each.id] != each.order]
    assert len(changed) <= 1 or len(set(before.values())) < len(before)


def test_moving_between_the_same_two_again_and_again_is_renumbered_rarely(mgr, pages):
    a, b, c, d = roots(pages, "A", "B", "C", "D")
    moves = 5 * MAX_PLACES
    with sent(mgr, "UPDATE") as statements:
        for _number in range(moves // 2):
            pages.move_below(b, a)
            pages.move_below(c, a)
    assert pages.roots == [a, c, b, d]
    assert moves < len(statements) <= moves + 8
    assert max(-each.order.as_tuple().exponent for each in pages.roots) <= MAX_PLACES

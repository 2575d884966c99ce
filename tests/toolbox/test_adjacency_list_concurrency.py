"""Siblings that several threads move and add at once: none is lost, each has its place."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import select

from onegov_orm.abstract import MoveDirection
from tests.toolbox.trees import Base, Page, Pages, insert_rows, titles

THREADS = 4
ROUNDS = 6
TRIES = 200


class Town:
    """A schema, and how to work in it again and again until that succeeds."""

    def __init__(self, mgr):
        self.mgr = mgr
        self.name = mgr.current_schema

    def attempt(self, work):
        self.mgr.set_current_schema(self.name)
        for attempt in self.mgr.attempts(TRIES):
            with attempt as session:
                work(session)

    def look(self):
        return self.mgr.schema(self.name)


@pytest.fixture
def town(new_town):
    return Town(new_town(Base))


@pytest.fixture
def grown(town):
    with town.look() as session:
        root = Pages(session).add_root("Root")
        for number in range(6):
            session.add(Page(title=f"Page {number}", parent=root))
    return town


def in_threads(work):
    """Start the work in several threads at the same moment, and raise what it raises."""
    barrier = Barrier(THREADS)

    def start(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(start, range(THREADS)))


def children(session):
    root = Pages(session).by_path("root")
    query = select(Page).where(Page.parent_id == root.id).order_by(Page.order, Page.id)
    return root, list(session.scalars(query))


def assert_whole(town, count):
    with town.look() as session:
        _root, found = children(session)
        assert len(found) == count
        assert len({page.order for page in found}) == count
        assert len({page.name for page in found}) == count
        return titles(found)


def test_moves_and_inserts_at_once_all_succeed(grown):
    def work(number):
        chance = random.Random(number)
        for round_ in range(ROUNDS):

            def change(session, round_=round_):
                root, found = children(session)
                if round_ % 2:
                    Pages(session).add(root, f"Added {number}-{round_}")
                    return
                subject, target = chance.sample(found, 2)
                Pages(session).move(subject, target, chance.choice(list(MoveDirection)))

            grown.attempt(change)

    in_threads(work)
    assert_whole(grown, 6 + THREADS * ROUNDS // 2)


def test_equal_titles_added_at_once_get_names_of_their_own(grown):
    def work(number):
        for _round in range(3):
            grown.attempt(lambda session: Pages(session).add(children(session)[0], "Same"))

    in_threads(work)
    assert_whole(grown, 6 + THREADS * 3)


def test_items_that_are_just_added_at_once_get_places_of_their_own(grown):
    def work(number):
        for round_ in range(4):

            def add(session, round_=round_):
                session.add(Page(title=f"{number}-{round_}", parent=children(session)[0]))

            grown.attempt(add)

    in_threads(work)
    assert_whole(grown, 6 + THREADS * 4)


def test_what_is_missing_is_added_once_by_all_together(grown):
    def work(number):
        found = []
        grown.attempt(
            lambda session: found.append(
                Pages(session).add_or_get(children(session)[0], "New").id
            ),
        )
        return found[-1]

    assert len(set(in_threads(work))) == 1
    assert_whole(grown, 7)


def test_two_items_are_never_put_below_each_other(grown):
    def work(number):
        def change(session):
            _root, found = children(session)
            if len(found) == 6:
                found[number % 2].parent = found[(number + 1) % 2]

        grown.attempt(change)

    in_threads(work)
    with grown.look() as session:
        assert sorted(page.root.title for page in Pages(session).query()) == ["Root"] * 7


def test_renumbering_at_once_keeps_the_order(town):
    with town.look() as session:
        insert_rows(session, *"abcdef")

    def work(number):
        def move(session):
            pages = Pages(session)
            pages.move_below(pages.by_name("d"), pages.by_name("a"))

        town.attempt(move)

    in_threads(work)
    with town.look() as session:
        assert titles(Pages(session).roots) == ["a", "d", "b", "c", "e", "f"]

"""Trees and associations with each driver on each server."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm.abstract import Associable, associated
from tests.asynchronous import BERN, in_loop
from tests.toolbox.trees import Base, Pages, insert_rows, titles


class OwnBase(DeclarativeBase):
    pass


class Label(OwnBase, Associable):
    __tablename__ = "labels"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Labelled:
    labels = associated(Label, "labels")


class Letter(OwnBase, Labelled):
    __tablename__ = "letters"
    key: Mapped[str] = mapped_column(primary_key=True)


def grow(session):
    """Use what drivers may treat in ways of their own: arrays, decimals, rows deleted twice."""
    pages = Pages(session)
    insert_rows(session, "Ä", "B", order=Decimal("65536.5"))
    root = pages.add_root("Root")
    for title in ('c"{}', "b,\\", "a'", "NULL", ""):
        pages.add(root, title)
    assert titles(root.children) == ["", "a'", "b,\\", 'c"{}', "NULL"]
    pages.move_above(root.children[4], root.children[1])
    pages.move_below(*pages.roots[:2])
    root.children[0].title = "z"
    session.flush()
    assert titles(pages.roots) == ["B", "Ä", "Root"]
    session.expire_all()
    assert titles(root.children) == ["z", "NULL", "a'", "b,\\", 'c"{}']
    assert pages.by_path("root/page") is root.children[0]
    assert pages.by_path("root/c").order == Decimal(1)
    letter = Letter(key="a", labels=[Label(name="old"), Label(name="gone")])
    session.add(letter)
    session.flush()
    session.delete(letter.labels[0])
    session.flush()
    letter.labels = [Label(name="new")]
    session.flush()
    assert [label.name for label in session.query(Label)] == ["new"]
    assert letter.labels[0].links[:1].all() == (letter,)
    session.delete(letter)
    pages.delete(root)
    session.flush()
    assert (session.query(Label).count(), titles(pages.roots)) == (0, ["B", "Ä"])


def test_trees_grow_with_each_driver(dsn, new_manager):
    mgr = new_manager(dsn, Base)
    mgr.bases.append(OwnBase)
    with mgr.schema(BERN) as session:
        grow(session)


@in_loop
async def test_trees_grow_with_each_asynchronous_driver(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Base)
    mgr.bases.append(OwnBase)
    async with mgr.schema(BERN) as session:
        await session.run_sync(grow)

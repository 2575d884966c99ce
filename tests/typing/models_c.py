"""Trees and associations as users write them: mypy knows what comes out, without a cast."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, assert_type

from sqlalchemy.orm import DeclarativeBase, Mapped, Query, Session, mapped_column

from onegov_orm.abstract import (
    AdjacencyList,
    AdjacencyListCollection,
    AdjacencyListMixin,
    Associable,
    MoveDirection,
    associated,
    sort_siblings,
)
from onegov_orm.base import Base
from onegov_orm.utils import QueryChain, increment_name, maybe_merge, normalize_for_url


class Page(AdjacencyList):
    __tablename__ = "pages"

    lead: Mapped[str | None]

    if TYPE_CHECKING:
        # Kinds of pages may be below other kinds.
        parent: Mapped[Page | None]
        children: Mapped[list[Page]]

        @property
        def root(self) -> Page: ...


class Topic(Page):
    __mapper_args__ = {"polymorphic_identity": "topic"}

    @property
    def sort_key(self) -> Callable[[Any], Any]:
        return lambda page: page.lead


class Pages(AdjacencyListCollection[Page]):
    __listclass__ = Page

    @staticmethod
    def sort_key(item: Page) -> str:
        return item.lead or ""


class OwnBase(DeclarativeBase):
    pass


class Node(AdjacencyListMixin, OwnBase):
    __tablename__ = "nodes"


class Payment(Base, Associable):
    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)


class Payable:
    payment = associated(Payment, "payment", "one-to-one", backref_suffix="payables")
    payments = associated(Payment, "payments", "many-to-many")
    received = associated(Payment, "received", backref_suffix="receivers", onupdate="CASCADE")
    latest = associated(Payment, "latest", "many-to-many", uselist=False, backref_suffix="latest")
    single = associated(
        Payment, "single", "one-to-one", uselist=True, order_by="Payment.id", backref_suffix="x"
    )


class Product(Base, Payable):
    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)


def use_trees(session: Session) -> None:
    pages = Pages(session)
    page = pages.add_root("Über uns", lead="Wir")
    child = pages.add(page, "Team", type="topic", order=3)
    assert_type(child, Page)
    assert_type(child.parent, Page | None)
    assert_type(page.children, list[Page])
    assert_type(list(child.ancestors), list[Page])
    assert_type(child.root, Page)
    assert_type(child.siblings, Query[Page])
    assert_type((child.order, child.path), tuple[Decimal, str])
    assert_type(pages.by_path("ueber-uns/team", ensure_type="topic"), Page | None)
    assert_type(pages.roots, list[Page])
    assert_type(pages.query(ordered=False), Query[Page])
    pages.move(child, page, MoveDirection.above)
    pages.move_below(page, child)
    sort_siblings(page.children, key=lambda item: item.title, reverse=True)
    topic = Topic("Sub", parent=page)
    assert_type((topic.parent, topic.root, topic.children), tuple[Page | None, Page, list[Page]])
    session.query(Page).filter(Page.parent_id.is_(None), Page.name == "a").order_by(Page.order)
    node = Node("Root")
    assert_type(Node("Leaf", node, name="leaf").parent, Node | None)


def use_associations(session: Session) -> None:
    product = Product(payment=Payment(), payments=[Payment()])
    assert_type(product.payment, Payment | None)
    assert_type(product.payments, list[Payment])
    assert_type(product.received, list[Payment])
    assert_type(product.latest, Payment | None)
    assert_type(product.single, list[Payment])
    product.payment = None
    product.payments.append(Payment())
    session.query(Product).filter(Product.payments.any(Payment.id > 3))
    for payment in product.payments:
        assert_type(payment.links, QueryChain[Any])
    for link in Payment.registered_links.values():
        assert_type((link.attribute, link.key), tuple[str, str])


def use_chains(session: Session) -> None:
    chain = QueryChain([session.query(Page), session.query(Page).limit(3)])
    assert_type(chain, QueryChain[Page])
    assert_type(chain[1:3].limit(2).offset(1), QueryChain[Page])
    assert_type(chain[0], Page)
    assert_type(chain.first(), Page | None)
    assert_type(chain.all(), tuple[Page, ...])
    assert_type(chain.count(), int)
    mixed = QueryChain[Base]([session.query(Page), session.query(Product)])
    for each in mixed:
        assert_type(each, Base)
    assert_type(maybe_merge(session, Page("A")), Page)
    assert_type(increment_name(normalize_for_url("Ä")), str)

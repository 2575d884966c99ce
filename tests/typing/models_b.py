"""How an application uses translated texts, observers and aggregates."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from markupsafe import Markup
from sqlalchemy import (
    Column,
    ColumnElement,
    ForeignKey,
    Integer,
    Numeric,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import HSTORE, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from onegov_orm import AsyncSessionManager, NoCurrentLocale, SessionManager
from onegov_orm.aggregates import aggregated
from onegov_orm.observer import observes
from onegov_orm.translation import translation_hybrid, translation_markup_hybrid


class Base(DeclarativeBase):
    """The application's base."""


class Titled:
    """A mixin with a translated title that others observe."""

    title_translations: Mapped[Mapping[str, str] | None] = mapped_column(HSTORE)
    title = translation_hybrid(title_translations)
    slug: Mapped[str | None]

    @observes("title_translations")
    def update_slug(self, translations: Mapping[str, str] | None) -> None:
        """Follow the titles."""
        self.slug = "-".join((translations or {}).values()).lower()


class Product(Titled, Base):
    """What a catalog has."""

    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    catalog_id: Mapped[int | None] = mapped_column(ForeignKey("catalogs.id"))
    price: Mapped[Decimal]
    text_translations: Mapped[dict[str, Any]] = mapped_column(JSONB)
    text = translation_markup_hybrid(text_translations)
    catalog: Mapped[Catalog | None] = relationship(back_populates="products")


class Catalog(Titled, Base):
    """What has products."""

    __tablename__ = "catalogs"

    id: Mapped[int] = mapped_column(primary_key=True)
    products: Mapped[list[Product]] = relationship(back_populates="catalog")
    cheapest: Mapped[Decimal | None]

    @aggregated("products", mapped_column(Integer, default=0))
    def product_count(self) -> ColumnElement[int]:
        """Count the products."""
        return func.count()

    @aggregated("products", Column(Numeric(10, 2)))
    def net_worth(self) -> ColumnElement[Decimal | None]:
        """Sum up the prices."""
        return func.sum(Product.price)

    @observes("products.price", scope="shop")
    def update_cheapest(self, prices: list[Decimal]) -> None:
        """Follow the prices."""
        self.cheapest = min(prices, default=None)


def use(session: Session, catalog: Catalog, product: Product) -> tuple[str | None, Markup | None]:
    """Read and write what is derived and translated."""
    product.title = "Chair"
    product.text = "a plain text & more"
    product.text = Markup("<b>bold</b>")
    del product.title
    catalog.update_cheapest([Decimal(1)])
    count: int = catalog.product_count
    worth: Decimal | None = catalog.net_worth
    print(count + 1, worth)
    session.execute(update(Product).values({Product.title: "Table"}))
    return product.title, product.text


def query(session: Session) -> dict[str | None, int]:
    """Query what is derived and translated."""
    statement = (
        select(Catalog.title, Catalog.product_count)
        .where(Catalog.title.ilike("a%"), Catalog.product_count > 1)
        .order_by(Catalog.title, Catalog.net_worth.desc())
    )
    return {title: count + 1 for title, count in session.execute(statement)}


def managers(dsn: str) -> tuple[SessionManager, AsyncSessionManager]:
    """Make managers with scopes."""
    return SessionManager(dsn, Base, scopes=["shop"]), AsyncSessionManager(dsn, Base, scopes=())


def title_of(product: Product) -> str | None:
    """Read a title where there may be no locale."""
    try:
        return product.title
    except NoCurrentLocale:
        return None

"""Models that any other model can be linked to, through a table for each of those.

::

    class Payment(Base, Associable): ...

    class Payable:
        payment = associated(Payment, "payment", "one-to-one")

    class Product(Base, Payable): ...
    class Ticket(Base, Payable): ...

Products and tickets have a ``payment`` each, and a payment knows its ``links``. For two models
that just belong together, a foreign key and a ``relationship`` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar, overload

from sqlalchemy import Table, inspect
from sqlalchemy.orm import Mapped, Session, declared_attr, object_session
from sqlalchemy.orm.exc import DetachedInstanceError

from onegov_orm._query_chain import QueryChain
from onegov_orm.abstract._association_table import primary_key_of
from onegov_orm.abstract._linking import (
    CARDINALITIES,
    Association,
    Cardinality,
    OrderBy,
)
from onegov_orm.abstract._mapped import mapper_of, table_owner, topmost
from onegov_orm.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.orm import Query

M = TypeVar("M", bound="Associable")


class RegisteredLink(NamedTuple):
    """One attribute of one class that links to an associable model."""

    #: The linking class.
    cls: type[Any]
    #: The association table.
    table: Table
    #: Its column with the id of the linking object.
    key: str
    #: The attribute of the linking class.
    attribute: str
    cardinality: Cardinality
    #: The class that is linked to.
    associated_cls: type[Any]

    @property
    def association_key(self) -> str:
        """The table's column with the id of the associated object."""
        return next(column.name for column in self.table.columns if column.name != self.key)

    @property
    def class_attribute(self) -> Any:
        """The linking class's attribute, for queries."""
        return getattr(self.cls, self.attribute)


class Associable:
    """A model that `associated` may link to."""

    #: The links of all kinds of this model, by what leads back, such as ``linked_products``.
    #: Further links of the same name have their attribute and class added to it.
    registered_links: ClassVar[Mapping[str, RegisteredLink]] = MappingProxyType({})

    @classmethod
    def association_base(cls) -> type[Associable]:
        """Return the topmost model that is associable, which keeps the links."""
        base: type[Associable] = topmost(cls, Associable)
        return base

    @classmethod
    def register_link(
        cls,
        link_name: str,
        linked_class: type[Any],
        table: Table,
        key: str,
        attribute: str,
        cardinality: Cardinality,
    ) -> None:
        """Keep a link for `links`; `associated` does so by itself."""
        link = RegisteredLink(linked_class, table, key, attribute, cardinality, cls)
        base = cls.association_base()
        names = (link_name, f"{link_name}_{attribute}_{linked_class.__name__.lower()}")
        name = next((name for name in names if name not in base.registered_links), names[-1])
        base.registered_links = MappingProxyType({**base.registered_links, name: link})

    @property
    def links(self) -> QueryChain[Any]:
        """All objects that link to this one, of all models, as they stand in the database."""
        session = object_session(self)
        if session is None:
            raise DetachedInstanceError(
                f"{self!r} is in no session, where its links could be read"
            )
        if inspect(self).pending:
            session.flush()
        # Kinds of the same model share a table, and are found together.
        links = {
            link.table: link
            for link in self.registered_links.values()
            if isinstance(self, link.associated_cls)
        }
        return QueryChain(_linked(session, link, self) for link in links.values())


def _linked(session: Session, link: RegisteredLink, target: Associable) -> Query[Any]:
    owner = table_owner(mapper_of(link.cls))
    primary_key = primary_key_of(owner)
    key, association_key = link.table.columns[link.key], link.table.columns[link.association_key]
    query = session.query(owner.class_).join(link.table, key == primary_key)
    return query.filter(association_key == inspect(target).identity[0]).order_by(primary_key)


@overload
def associated(
    associated_cls: type[M],
    attribute_name: str,
    cardinality: Literal["one-to-many", "many-to-many"] = ...,
    *,
    uselist: Literal["auto", True] = ...,
    backref_suffix: str = ...,
    onupdate: str | None = ...,
    order_by: OrderBy = ...,
) -> Mapped[list[M]]: ...


@overload
def associated(
    associated_cls: type[M],
    attribute_name: str,
    cardinality: Literal["one-to-one"],
    *,
    uselist: Literal["auto", False] = ...,
    backref_suffix: str = ...,
    onupdate: str | None = ...,
    order_by: OrderBy = ...,
) -> Mapped[M | None]: ...


@overload
def associated(
    associated_cls: type[M],
    attribute_name: str,
    cardinality: Cardinality = ...,
    *,
    uselist: Literal[False],
    backref_suffix: str = ...,
    onupdate: str | None = ...,
    order_by: OrderBy = ...,
) -> Mapped[M | None]: ...


@overload
def associated(
    associated_cls: type[M],
    attribute_name: str,
    cardinality: Cardinality = ...,
    *,
    uselist: Literal[True],
    backref_suffix: str = ...,
    onupdate: str | None = ...,
    order_by: OrderBy = ...,
) -> Mapped[list[M]]: ...


def associated(
    associated_cls: type[M],
    attribute_name: str,
    cardinality: Cardinality = "one-to-many",
    *,
    uselist: Literal["auto"] | bool = "auto",
    backref_suffix: str = "__tablename__",
    onupdate: str | None = None,
    order_by: OrderBy = False,
) -> Any:
    """Link the classes that have this attribute to a model that is `Associable`.

    :param attribute_name: the name of the attribute that this is assigned to.
    :param cardinality: to one or many; with ``"one-to-..."`` an associated object belongs to a
        single other one, and is deleted with it, or when it is taken out of the attribute.
    :param uselist: whether the attribute is a list, if the cardinality doesn't tell.
    :param backref_suffix: of ``linked_...``, the associated model's attribute that leads back;
        by default it is the table of the linking class.
    :param onupdate: what the foreign key does if the primary key of a linking row changes.
    :param order_by: the order of a list.

    Raises `ConfigurationError`, some of them when a class that links is defined.
    """
    if cardinality not in CARDINALITIES:
        raise ConfigurationError(
            f"{cardinality!r} is no cardinality: take one of {', '.join(CARDINALITIES)}"
        )
    given: object = associated_cls
    if not (isinstance(given, type) and issubclass(given, Associable)):
        raise ConfigurationError(f"{associated_cls!r} has to inherit from Associable")
    association = Association(
        associated_cls=associated_cls,
        attribute=attribute_name,
        cardinality=cardinality,
        uselist=not cardinality.endswith("to-one") if uselist == "auto" else uselist,
        backref_suffix=backref_suffix,
        onupdate=onupdate,
        order_by=order_by,
    )

    def link(model):  # type: ignore[no-untyped-def]
        # SQLAlchemy would evaluate an annotation in the module of the class that inherits.
        return association.link(model)

    return declared_attr(link)

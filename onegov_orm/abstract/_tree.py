"""The items of a tree, in a table that points to itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import ClauseElement, ForeignKey, Numeric, Text, inspect
from sqlalchemy.orm import (
    Mapped,
    QueryableAttribute,
    declared_attr,
    mapped_column,
    object_session,
    relationship,
    validates,
)

from onegov_orm._url_names import normalize_for_url
from onegov_orm.abstract._mapped import has_mapped_base
from onegov_orm.abstract._order import parsed_key
from onegov_orm.abstract._siblings import Siblings, keep_place
from onegov_orm.abstract._sorting import by_title
from onegov_orm.abstract._tree_events import TreeEvents, name_of
from onegov_orm.abstract._walks import TreeItem, ancestors_of, refuse_circle, tree_of
from onegov_orm.errors import TreeError
from onegov_orm.observer import observes

if TYPE_CHECKING:
    from sqlalchemy.orm import Query


class AdjacencyListMixin(TreeItem):
    """An item of a tree, for models of any declarative base.

    The class that it is first used for is a tree with a table of its own; the classes that
    inherit from that are kinds of items, told apart by their ``polymorphic_identity``.
    """

    id: Mapped[int] = mapped_column(primary_key=True)

    #: What the item is called in a path, unique among its siblings; see `normalize_for_url`.
    name: Mapped[str] = mapped_column(Text)

    #: What people call it.
    title: Mapped[str] = mapped_column(Text, active_history=True)

    #: The ``polymorphic_identity`` of its class.
    type: Mapped[str] = mapped_column(Text, default="generic")

    #: Where it stands among its siblings; of two with the same number, the older is first.
    order: Mapped[Decimal] = mapped_column(Numeric)

    if TYPE_CHECKING:
        #: None for a root.
        parent_id: Mapped[int | None]
        parent: Mapped[Self | None]
        #: In their order.
        children: Mapped[list[Self]]
    else:

        @declared_attr
        @classmethod
        def parent_id(cls):
            # The type is that of the id, which a model may define as it likes.
            return mapped_column(ForeignKey(cls.id), nullable=True, active_history=True)

        @declared_attr
        @classmethod
        def parent(cls):
            return relationship(
                lambda: cls,
                foreign_keys=lambda: cls.parent_id,
                remote_side=lambda: cls.id,
                back_populates="children",
            )

        @declared_attr
        @classmethod
        def children(cls):
            # Not "delete-orphan": an item whose parent becomes None is a root, and stays.
            return relationship(
                lambda: cls,
                foreign_keys=lambda: cls.parent_id,
                order_by=lambda: (cls.order, cls.id),
                back_populates="parent",
                cascade="all",
            )

        @declared_attr.directive
        @classmethod
        def __mapper_args__(cls):
            if has_mapped_base(cls):
                return {}
            return {"polymorphic_on": "type", "polymorphic_identity": "generic"}

    def __init__(
        self, title: str, parent: AdjacencyListMixin | None = None, **attributes: Any
    ) -> None:
        if parent is not None:
            attributes["parent"] = parent
            identity = inspect(parent).identity
            # So that it is known before the flush, too.
            attributes.setdefault("parent_id", identity and identity[0])
        super().__init__(title=title, **attributes)  # type: ignore[call-arg]

    def __repr__(self) -> str:
        # Only what is known: a message about an item must not read the database.
        name, id_, parent_id = (self.__dict__.get(key) for key in ("name", "id", "parent_id"))
        return f"{type(self).__name__}(name={name!r}, id={id_}, parent_id={parent_id})"

    @property
    def root(self) -> Self:
        """The item at the top, which a root is itself."""
        return next(self.ancestors, self)

    @property
    def ancestors(self) -> Iterator[Self]:
        """All items above, from the root on; those that are not known yet take one query."""
        above: list[Self] = list(ancestors_of(self))
        return reversed(above)

    @property
    def siblings(self) -> Query[Self]:
        """A query of the items with the same parent, of all classes, this one included."""
        session = object_session(self)
        if session is not None and session.autoflush and inspect(self).modified:
            session.flush()
        found = Siblings.of(self)
        query: Query[Self] = found.session.query(found.tree).filter(found.are_meant)
        return query.order_by(found.tree.order, found.tree.id)

    @property
    def path(self) -> str:
        """The names from the root to this item, with slashes between."""
        return "/".join([*(each.name for each in self.ancestors), self.name])

    @property
    def absorb(self) -> str:
        """The path, under the name that Morepath asks for when it absorbs one."""
        return self.path

    @property
    def sort_key(self) -> Callable[[Any], Any]:
        """The function that siblings are sorted by; see `AdjacencyListCollection.sort_key`."""
        return by_title

    @observes("title")
    def sort_on_title_change(self, title: str) -> None:
        """Keep siblings sorted if they were."""
        keep_place(self)

    @validates("name")
    def validate_name(self, _key: str, name: str | None) -> str | None:
        """Raise `TreeError` for a name that a path can't hold."""
        if name is not None and (not name or normalize_for_url(name) != name):
            raise TreeError(
                self, f"the name {name!r} is not normalized: {name_of(name)!r} would be"
            )
        return name

    @validates("order")
    def validate_order(self, _key: str, order: Any) -> Any:
        """Take any number that has a place among others."""
        if order is None or isinstance(order, (ClauseElement, QueryableAttribute)):
            return order
        try:
            return parsed_key(order)
        except ValueError as exc:
            raise TreeError(self, str(exc)) from exc

    @validates("parent")
    def validate_parent(self, _key: str, parent: Any) -> Any:
        """Raise `TreeError` for a parent that is below this item."""
        if parent is not None:
            refuse_circle(self, parent)
        return parent

    @validates("parent_id")
    def validate_parent_id(self, _key: str, parent_id: Any) -> Any:
        """Raise `TreeError` for the id of a parent that is below this item."""
        parent = self.__dict__.get("parent")
        session = object_session(self)
        # What a flush copies from the parent was looked at before.
        is_known = parent is not None and parent.__dict__.get("id") == parent_id
        if session is None or is_known:
            return parent_id
        with session.no_autoflush:
            found = None if parent_id is None else session.get(tree_of(type(self)), parent_id)
        if found is not None:
            refuse_circle(self, found)
        if inspect(self).persistent:
            # The parent that was loaded is not the one any more.
            session.expire(self, ["parent"])
        return parent_id


TreeEvents().attach(AdjacencyListMixin)

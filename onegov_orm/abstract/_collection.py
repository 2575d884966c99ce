"""A whole tree: where items are found, added and moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import or_
from sqlalchemy.orm import Session

from onegov_orm._url_names import MAX_NAME_LENGTH, increment_name, split_number
from onegov_orm.abstract._mapped import mapper_of
from onegov_orm.abstract._siblings import MoveDirection, Siblings
from onegov_orm.abstract._sorting import by_title
from onegov_orm.abstract._tree import AdjacencyListMixin
from onegov_orm.abstract._tree_events import name_of
from onegov_orm.abstract._walks import id_at, load_descendants, tree_of
from onegov_orm.errors import ModelNotFound, TreeError

if TYPE_CHECKING:
    from _typeshed import SupportsRichComparison
    from sqlalchemy.orm import Query

L = TypeVar("L", bound=AdjacencyListMixin)

#: How much of a name stays the same when numbers are added to it.
_STEM_LENGTH = MAX_NAME_LENGTH - 20


class AdjacencyListCollection(Generic[L]):
    """The items of a tree, in one session.

    ::

        class PageCollection(AdjacencyListCollection[Page]):
            __listclass__ = Page
    """

    #: The class of the items, which may be one kind of those that the tree has.
    __listclass__: type[L]

    def __init__(self, session: Session) -> None:
        self.session = session

    @staticmethod
    def sort_key(item: L) -> SupportsRichComparison:
        """Return what siblings are sorted by, where they are sorted.

        Whoever has another key gives the model the same one, for when its titles change.
        """
        return by_title(item)

    # -- finding

    def query(self, ordered: bool = True) -> Query[L]:
        """Return a query of all items, each among its siblings in their order."""
        query = self.session.query(self.__listclass__)
        if ordered:
            query = query.order_by(self.__listclass__.order, self.__listclass__.id)
        return query

    @property
    def roots(self) -> list[L]:
        """The items without a parent."""
        return self.query().filter(self.__listclass__.parent_id.is_(None)).all()

    def by_id(self, item_id: Any) -> L | None:
        """Return the item with this id."""
        return self.query(ordered=False).filter(self.__listclass__.id == item_id).first()

    def by_path(self, path: str, ensure_type: str | None = None) -> L | None:
        """Return the item with this path, of this type if one is given.

        Slashes at the ends are ignored. It takes one query, however deep the item is.
        """
        if not _is_storable(path):
            return None
        found = id_at(tree_of(self.__listclass__), path.strip("/").split("/"))
        item = self.query(ordered=False).filter(self.__listclass__.id == found).first()
        return item if item is None or ensure_type in (None, item.type) else None

    def by_title(self, title: str) -> L | None:
        """Return the first item with this title, wherever it is."""
        if not _is_storable(title):
            return None
        return self.query().filter(self.__listclass__.title == title).first()

    def by_name(self, name: str) -> L | None:
        """Return the first item with this name, wherever it is."""
        if not _is_storable(name):
            return None
        return self.query().filter(self.__listclass__.name == name).first()

    # -- adding and deleting

    def get_unique_child_name(self, name: str, parent: L | None) -> str:
        """Return the name that the text yields, with a number if the parent has such a child."""
        found = name_of(name)
        tree = tree_of(self.__listclass__)
        stem, _number = split_number(found)
        beginning = f"{stem}-" if len(stem) <= _STEM_LENGTH else stem[:_STEM_LENGTH]
        same = or_(tree.name == found, tree.name.startswith(beginning, autoescape=True))
        query = self.session.query(tree.name).filter(self._children_of(parent).are_meant, same)
        taken = {taken for (taken,) in query}
        while found in taken:
            found = increment_name(found)
        return found

    def add(
        self,
        parent: L | None,
        title: str,
        name: str | None = None,
        type: str | None = None,  # noqa: A002 as users know it
        **attributes: Any,
    ) -> L:
        """Add a child, or a root if there is no parent, and flush.

        Without an ``order`` it is put where the sort key says if its siblings are sorted, else
        at the end. Without a name it gets a unique one. The type is a ``polymorphic_identity``;
        raises `ModelNotFound` for an unknown one.
        """
        model = self.__listclass__ if type is None else self._class_of(type)
        siblings = self._children_of(parent)
        name = name or self.get_unique_child_name(title, parent)
        with self.session.no_autoflush:
            child = model(title=title, name=name, **attributes)
            if attributes.get("order") is None:
                is_default = self.sort_key is AdjacencyListCollection.sort_key
                child.order = siblings.key_for(child, by_title if is_default else self.sort_key)
            child.parent = parent
            self.session.add(child)
        self._write(child)
        return child

    def add_root(self, title: str, name: str | None = None, **attributes: Any) -> L:
        """Add an item without a parent; see `add`."""
        return self.add(None, title, name, **attributes)

    def add_or_get(
        self, parent: L | None, title: str, name: str | None = None, **attributes: Any
    ) -> L:
        """Return the child with this name, or that of the title, and add it if there is none."""
        name = name or name_of(title)
        query = self.query().filter(self._children_of(parent).are_meant)
        found = query.filter(self.__listclass__.name == name).first()
        return found or self.add(parent, title, name, **attributes)

    def add_or_get_root(self, title: str, name: str | None = None, **attributes: Any) -> L:
        """Return the root with this name, or add it; see `add_or_get`."""
        return self.add_or_get(None, title, name, **attributes)

    def delete(self, item: L) -> None:
        """Delete the item and all that is below it, and flush."""
        self.session.flush()
        load_descendants(self.session, tree_of(self.__listclass__), item)
        self.session.delete(item)
        self.session.flush()

    # -- moving

    def move_above(self, subject: L, target: L) -> None:
        """Put an item right before one of its siblings."""
        self.move(subject, target, MoveDirection.above)

    def move_below(self, subject: L, target: L) -> None:
        """Put an item right after one of its siblings."""
        self.move(subject, target, MoveDirection.below)

    def move(self, subject: L, target: L, direction: MoveDirection) -> None:
        """Put an item next to one of its siblings, and flush.

        Raises `TreeError` if they are the same, or have different parents.
        """
        direction = MoveDirection(direction)
        self.session.flush()
        if subject is target:
            raise TreeError(subject, "it can't be moved next to itself: choose another target")
        siblings = Siblings.of(target)
        if siblings != Siblings.of(subject):
            raise TreeError(
                subject, f"{target!r} has another parent: make that the parent of both first"
            )
        siblings.place(subject, target, direction)
        self._write(subject)

    def _children_of(self, parent: L | None) -> Siblings:
        if parent is not None:
            self.session.add(parent)
        self.session.flush()
        parent_id = None if parent is None else parent.id
        return Siblings(self.session, tree_of(self.__listclass__), parent_id)

    def _class_of(self, type_: str) -> type[L]:
        known = mapper_of(self.__listclass__).polymorphic_map
        if type_ not in known:
            raise ModelNotFound(self.__listclass__, type_, known)
        return known[type_].class_

    def _write(self, item: L) -> None:
        """Flush, and have the parent's children read again in their new order."""
        self.session.flush()
        tree = mapper_of(tree_of(self.__listclass__))
        key = tree.identity_key_from_primary_key((item.parent_id,))
        parent = self.session.identity_map.get(key)
        if parent is not None and "children" in parent.__dict__:
            self.session.expire(parent, ["children"])


def _is_storable(text: str) -> bool:
    """Tell whether PostgreSQL's text can hold this; what it can't hold is nobody's name."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False

"""The items that share a parent: who comes before whom."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Text, cast, func, inspect, literal, select, tuple_
from sqlalchemy.orm import Session, object_session

from onegov_orm.abstract._order import FIRST, key_between
from onegov_orm.abstract._sorting import AsItWas, by_title, is_sorted, title_key
from onegov_orm.abstract._walks import tree_of
from onegov_orm.errors import TreeError

T = TypeVar("T")

Gap = tuple[Decimal | None, Decimal | None]


class MoveDirection(Enum):
    """On which side of its target an item is put."""

    above = 1
    below = 2


@dataclass(frozen=True)
class Siblings:
    """The children of one parent, or the roots, as they stand in the database."""

    session: Session
    tree: Any
    parent_id: Any

    @classmethod
    def of(cls, item: Any) -> Siblings:
        """Return those of an item in a session, which it is one of."""
        session = object_session(item)
        if session is None:
            raise TreeError(item, "it is in no session, where its siblings could be read: add it")
        return cls(session, tree_of(type(item)), item.parent_id)

    @property
    def are_meant(self) -> ColumnElement[bool]:
        """The criterion that selects them."""
        column: Any = self.tree.parent_id
        found: ColumnElement[bool]
        found = column.is_(None) if self.parent_id is None else column == self.parent_id
        return found

    def items(self) -> Sequence[Any]:
        """Return them in their order."""
        query = select(self.tree).where(self.are_meant)
        return self.session.scalars(query.order_by(self.tree.order, self.tree.id)).all()

    def titles(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return the titles and the keys of all, in their order."""
        order = cast(self.tree.order, Text).label("key")
        rows = select(self.tree.title.label("title"), order).where(self.are_meant)
        found = rows.order_by(self.tree.order, self.tree.id).subquery()
        # Two long values are read faster than thousands of rows.
        query = select(func.array_agg(found.c.title), func.array_agg(found.c.key))
        titles, keys = self.session.execute(query).one()
        return titles or (), keys or ()

    def renumber(self) -> None:
        """Give all new keys, as changes of objects, which subscribers hear of."""
        renumber(self.items())
        self.session.flush()

    def place(self, subject: Any, target: Any, direction: MoveDirection) -> None:
        """Put an item next to another, with one update unless there is no room."""
        left, right = self._gap(subject, target, direction)
        if _is_within(subject.order, left, right):
            return
        key = key_between(left, right)
        if key is None:
            self.renumber()
            key = key_between(*self._gap(subject, target, direction))
        subject.order = key

    def key_for(self, item: Any, sort_key: Callable[[Any], Any]) -> Decimal:
        """Return the key for a new item: sorted if all others are, else at the end."""
        key = self._key_for(item, sort_key)
        if key is None:
            self.renumber()
            key = self._key_for(item, sort_key)
        return FIRST if key is None else key

    def _key_for(self, item: Any, sort_key: Callable[[Any], Any]) -> Decimal | None:
        # The objects are loaded only if the key may ask them for more than their titles.
        if sort_key is by_title:
            titles, orders = self.titles()
            keys: list[Any] = [title_key(title) for title in titles]
        else:
            items = self.items()
            keys, orders = [sort_key(each) for each in items], [each.order for each in items]
        index = bisect_right(keys, sort_key(item)) if is_sorted(keys) else len(keys)
        return key_between(*_gap_at(orders, index))

    def _gap(self, subject: Any, target: Any, direction: MoveDirection) -> Gap:
        """Return the keys between which the subject belongs."""
        if direction is MoveDirection.above:
            return self._neighbour(subject, target, direction), target.order
        return target.order, self._neighbour(subject, target, direction)

    def _neighbour(self, subject: Any, target: Any, direction: MoveDirection) -> Decimal | None:
        """Return the key of the item next to the target, other than the subject."""
        order, id_ = self.tree.order, self.tree.id
        place = tuple_(order, id_)
        at_target = tuple_(literal(target.order, order.type), literal(target.id, id_.type))
        query = select(order).where(self.are_meant, id_ != subject.id).limit(1)
        if direction is MoveDirection.above:
            query = query.where(place < at_target).order_by(order.desc(), id_.desc())
        else:
            query = query.where(place > at_target).order_by(order, id_)
        return self.session.scalar(query)


def sort_siblings(siblings: Iterable[T], key: Callable[[T], Any], reverse: bool = False) -> None:
    """Give the items the order that sorting them by the key yields."""
    renumber(sorted(siblings, key=key, reverse=reverse))


def renumber(items: Iterable[Any]) -> None:
    """Give the items whole numbers; those that have theirs already are left alone."""
    for number, item in enumerate(items, int(FIRST)):
        if item.order != number:
            item.order = Decimal(number)


def keep_place(item: Any) -> None:
    """Move an item whose title changed, if it stood among its siblings sorted by title."""
    if not inspect(item).persistent or not _has_changed(item, "title"):
        return
    if any(_has_changed(item, name) for name in ("order", "parent", "parent_id")):
        return
    found = Siblings.of(item).items()
    if is_sorted(item.sort_key(_as_it_was(each)) for each in found):
        # All that changed in the same flush, for each of them may be in the way of the others.
        displaced = [each for each in found if _is_displaced(each)]
        placed = [each for each in found if not _is_displaced(each)]
        placed.sort(key=_place_of)
        for each in sorted(displaced, key=item.sort_key):
            _insert_sorted(each, placed, item.sort_key)


def end_of_siblings(tree: Any, parent_id: Any) -> Any:
    """Return a subquery of the key at the end of a parent's children, for a flush."""
    mapper: Any = inspect(tree)
    siblings = mapper.local_table.alias()
    order, parent = (siblings.c[mapper.columns[key].key] for key in ("order", "parent_id"))
    are_meant = parent.is_(None) if parent_id is None else parent == parent_id
    last = func.coalesce(func.max(order), FIRST - 1)
    return select(func.floor(last) + 1).where(are_meant).scalar_subquery()


def _gap_at(keys: Sequence[Any], index: int) -> Gap:
    """Return the keys on both sides of a position."""
    left = Decimal(keys[index - 1]) if index else None
    right = Decimal(keys[index]) if index < len(keys) else None
    return left, right


def _is_within(key: Decimal, left: Decimal | None, right: Decimal | None) -> bool:
    return (left is None or left < key) and (right is None or key < right)


def _has_changed(item: Any, name: str) -> bool:
    return bool(inspect(item).attrs[name].history.has_changes())


def _is_displaced(item: Any) -> bool:
    return _has_changed(item, "title") and not _has_changed(item, "order")


def _place_of(item: Any) -> tuple[Decimal, Any]:
    return item.order, item.id


def _insert_sorted(item: Any, placed: list[Any], sort_key: Callable[[Any], Any]) -> None:
    """Give an item the place among others that the key says; it may have it already."""
    keys = [sort_key(each) for each in placed]
    index = bisect_right(placed, _place_of(item), key=_place_of)
    if is_sorted([*keys[:index][-1:], sort_key(item), *keys[index:][:1]]):
        placed.insert(index, item)
        return
    index = bisect_right(keys, sort_key(item))
    key = key_between(*_gap_at([each.order for each in placed], index))
    placed.insert(index, item)
    if key is None:
        renumber(placed)
    else:
        item.order = key


def _as_it_was(item: Any) -> Any:
    before = inspect(item).attrs.title.history.deleted
    return AsItWas(item, before[0]) if before else item

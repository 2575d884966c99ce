"""Ways through a tree, up and down, each with one query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, cast

from sqlalchemy import ScalarSelect, Select, Text, inspect, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased, object_session
from sqlalchemy.orm.attributes import set_committed_value

from onegov_orm.abstract._mapped import topmost
from onegov_orm.errors import TreeError


class TreeItem:
    """What the items of all trees are."""


def ancestors_of(item: Any) -> Iterator[Any]:
    """Yield the parent, its parent, and so on; raises `TreeError` if they form a circle."""
    seen = {id(item)}
    # What is held here stays in the session until the walk is over.
    held: Sequence[Any] = ()
    while True:
        if not held and _has_unknown_parent(item):
            held = _load_ancestors(item)
        item = item.parent
        if item is None:
            return
        if id(item) in seen:
            raise TreeError(item, "its parents form a circle: give one of them another parent")
        seen.add(id(item))
        yield item


def refuse_circle(item: Any, parent: Any) -> None:
    """Raise `TreeError` if the item is above what is to become its parent."""
    if parent is item:
        raise TreeError(item, "an item can't be its own parent")
    state = inspect(item)
    if not state.has_identity and not item.__dict__.get("children"):
        return
    session = object_session(parent) or object_session(item)
    with session.no_autoflush if session else nullcontext():
        if any(above is item for above in ancestors_of(parent)):
            raise TreeError(
                item, f"{parent!r} is below it and can't become its parent: move that one first"
            )


def load_descendants(session: Session, tree: Any, item: Any) -> None:
    """Load all that is below the item, with one query instead of one for each."""
    down = select(tree.id).where(tree.id == item.id).cte("down", recursive=True)
    child = aliased(tree)
    down = down.union(select(child.id).join(down, child.parent_id == down.c.id))
    query = select(tree).where(tree.id.in_(select(down.c.id))).order_by(tree.order, tree.id)
    found = session.scalars(query).all()
    children = defaultdict(list)
    for each in found:
        children[each.parent_id].append(each)
    for each in found:
        if "children" not in each.__dict__:
            set_committed_value(each, "children", children[each.id])


def id_at(tree: Any, names: Sequence[str]) -> ScalarSelect[Any]:
    """Return a subquery of the id of the item that is found by these names, from the root on."""
    walk = (
        select(
            tree.id, literal(1).label("depth"), literal(list(names), ARRAY(Text)).label("names")
        )
        .where(tree.parent_id.is_(None), tree.name == names[0])
        .cte("walk", recursive=True)
    )
    child = aliased(tree)
    walk = walk.union_all(
        select(child.id, walk.c.depth + 1, walk.c.names)
        .join(walk, child.parent_id == walk.c.id)
        .where(child.name == walk.c.names[walk.c.depth + 1])
    )
    return select(walk.c.id).where(walk.c.depth == len(names)).scalar_subquery()


def tree_of(model: type[Any]) -> Any:
    """Return the class at the top of the model's tree, which all items are of."""
    return topmost(model, TreeItem)


def _has_unknown_parent(item: Any) -> bool:
    """Tell whether asking for the parent would take a query."""
    state = inspect(item)
    if not state.persistent or "parent" in item.__dict__ or item.parent_id is None:
        return False
    key = inspect(tree_of(type(item))).identity_key_from_primary_key((item.parent_id,))
    return key not in state.session.identity_map


def _load_ancestors(item: Any) -> Sequence[Any]:
    session = cast("Session", object_session(item))
    return session.scalars(_above(tree_of(type(item)), item.parent_id)).all()


def _above(tree: Any, first_id: Any) -> Select[Any]:
    up = select(tree.id, tree.parent_id).where(tree.id == first_id).cte("up", recursive=True)
    parent = aliased(tree)
    up = up.union(select(parent.id, parent.parent_id).join(up, parent.id == up.c.parent_id))
    return select(tree).where(tree.id.in_(select(up.c.id)))

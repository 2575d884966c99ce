"""Models to inherit from: trees, and models that any other can be linked to."""

from __future__ import annotations

from onegov_orm.abstract.adjacency_list import (
    AdjacencyList,
    AdjacencyListCollection,
    AdjacencyListMixin,
    MoveDirection,
    sort_siblings,
)
from onegov_orm.abstract.associable import Associable, RegisteredLink, associated

__all__ = [
    "AdjacencyList",
    "AdjacencyListCollection",
    "AdjacencyListMixin",
    "Associable",
    "MoveDirection",
    "RegisteredLink",
    "associated",
    "sort_siblings",
]

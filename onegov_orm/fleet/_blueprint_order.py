"""In which order the objects of a schema are made: each after what it depends on."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Final, NamedTuple

from onegov_orm.errors import UncloneableObject
from onegov_orm.fleet._sql_blueprint import PARTITION, REFRESH, TABLE


class Address(NamedTuple):
    """An object as the server's dependencies name it."""

    catalog: int
    oid: int


class Dependency(NamedTuple):
    """One of the server's dependencies: a row that `_sql_blueprint_rest.DEPENDENCIES` yields."""

    catalog: int
    oid: int
    other_catalog: int
    other_oid: int
    kind: str
    is_of_type: bool
    is_of_constraint: bool

    @property
    def dependent(self) -> Address:
        """What depends."""
        return Address(self.catalog, self.oid)

    @property
    def needed(self) -> Address:
        """What is depended on."""
        return Address(self.other_catalog, self.other_oid)


@dataclass(frozen=True, slots=True)
class Node:
    """An object, and the statements that make it."""

    address: Address
    kind: str
    name: str
    rank: int
    needs: tuple[int, ...]
    statements: tuple[str, ...]


#: Partitions of tables and indexes are made by themselves, and put together later.
_PARTITION_KINDS: Final = ("P", "S")


class Order:
    """Sorts nodes by the server's dependencies, and by their ranks where these leave it open."""

    def __init__(self, nodes: Sequence[Node], dependencies: Collection[Dependency]) -> None:
        self._nodes = nodes
        self._number_of = {node.address: number for number, node in enumerate(nodes)}
        self._relations = {
            node.address.oid: number
            for number, node in enumerate(nodes)
            if node.kind in ("table", "view", "index", "sequence")
        }
        self._parts = self._find_parts(dependencies)
        self._needs = self._find_needs(dependencies)
        self._order_refreshes()

    def split(self) -> tuple[list[Node], list[Node]]:
        """Return what the rows need, and what comes after them."""
        early = self._required(
            number for number, node in enumerate(self._nodes) if node.rank in (TABLE, PARTITION)
        )
        late = set(range(len(self._nodes))) - early
        return list(self._sorted(early)), list(self._sorted(late))

    def _find_parts(self, dependencies: Iterable[Dependency]) -> Mapping[Address, Address]:
        """Return to what the objects belong that come with another one."""
        parts: dict[Address, Address] = {}
        for each in dependencies:
            # Internal ones are stronger than automatic ones, and stand first.
            if each.kind in "ia" and each.dependent not in self._number_of:
                parts.setdefault(each.dependent, each.needed)
        return parts

    def _find_needs(self, dependencies: Iterable[Dependency]) -> list[set[int]]:
        needs: list[set[int]] = [
            {self._relations[oid] for oid in node.needs if oid in self._relations}
            for node in self._nodes
        ]
        for each in dependencies:
            dependent, needed = self._whole(each.dependent), self._whole(each.needed)
            if dependent is None or needed is None or dependent == needed:
                continue
            if self._counts(each, dependent):
                needs[dependent].add(needed)
        return needs

    def _order_refreshes(self) -> None:
        """Let each materialized view be filled after those that it reads."""
        refreshes = {
            view: number
            for number, node in enumerate(self._nodes)
            if node.rank == REFRESH
            for view in self._needs[number]
        }
        for view, number in refreshes.items():
            read = self._required([view]) & refreshes.keys() - {view}
            self._needs[number] |= {refreshes[other] for other in read}

    def _counts(self, each: Dependency, dependent: int) -> bool:
        """Tell whether one thing has to be made after another for this dependency."""
        node = self._nodes[dependent]
        if each.kind in _PARTITION_KINDS:
            return False
        # A sequence is told later which column it belongs to.
        if node.kind == "sequence" and each.kind == "a":
            return False
        # A constraint that is made with another one says nothing about its table.
        is_part = each.dependent not in self._number_of
        return not (is_part and each.is_of_constraint and node.kind != "type")

    def _whole(self, address: Address) -> int | None:
        """Return the node that an object is, or belongs to."""
        seen = set()
        while address not in self._number_of:
            if address in seen or address not in self._parts:
                return None
            seen.add(address)
            address = self._parts[address]
        return self._number_of[address]

    def _required(self, numbers: Iterable[int]) -> set[int]:
        """Return the nodes and all that they need."""
        found: set[int] = set()
        waiting = list(numbers)
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                waiting.extend(self._needs[number])
        return found

    def _sorted(self, numbers: set[int]) -> Iterator[Node]:
        sorter = TopologicalSorter({number: self._needs[number] & numbers for number in numbers})
        try:
            sorter.prepare()
        except CycleError as exc:
            names = [f"{self._nodes[each].kind} {self._nodes[each].name}" for each in exc.args[1]]
            raise UncloneableObject([("circle of dependencies", " -> ".join(names))]) from exc
        ready: list[tuple[int, int]] = []
        while sorter.is_active():
            for number in sorter.get_ready():
                heapq.heappush(ready, (self._nodes[number].rank, number))
            _, number = heapq.heappop(ready)
            sorter.done(number)
            yield self._nodes[number]

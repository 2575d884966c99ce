"""Which statements ran, which of them were redundant, and which ones look like a loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

#: So many statements that differ in nothing but their parameters are taken for a loop.
MANY: Final = 3


@dataclass(slots=True)
class Query:
    """A statement that was sent to the server."""

    statement: str
    #: As the driver gets them; long texts, binary data and long lists are shortened.
    parameters: Any
    #: Where in the application it came from, the innermost line first.
    place: str | None
    #: In whose schema it ran, None for a connection that is in none.
    schema: str | None
    #: With how many sets of parameters it was sent, if at once with several.
    rows: int | None = None
    #: None until it has ended, and for one that failed.
    seconds: float | None = None
    #: Whether it may have come from reading: it returned rows, and is known to change none.
    is_reading: bool = False
    #: Whether the same again is of no use.
    is_repeatable: bool = True
    #: The same for the same parameters, whole as they were.
    key: Hashable = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Repetition:
    """A statement that ran several times."""

    queries: tuple[Query, ...]

    def __repr__(self) -> str:
        return f"<{self.count} times {self.statement!r}>"

    @property
    def statement(self) -> str:
        """The SQL they have in common."""
        return self.queries[0].statement

    @property
    def count(self) -> int:
        """How often it ran."""
        return len(self.queries)

    @property
    def seconds(self) -> float:
        """How long that took, all together."""
        return _total(self.queries)

    @property
    def places(self) -> Counter[str | None]:
        """How often it ran from each place."""
        return Counter(each.place for each in self.queries)


class Analysis:
    """The statements of a block, in the order in which they were sent."""

    def __init__(self) -> None:
        self.queries: list[Query] = []

    @property
    def count(self) -> int:
        """How many statements were sent; one with many rows counts once."""
        return len(self.queries)

    @property
    def seconds(self) -> float:
        """How long the statements took, seen from here."""
        return _total(self.queries)

    @property
    def redundant(self) -> list[Repetition]:
        """What ran more than once with the same text and parameters in the same schema."""
        repeatable = (each for each in self.queries if each.is_repeatable)
        return _repeated(repeatable, lambda each: (each.schema, each.statement, each.key), 2)

    @property
    def redundant_count(self) -> int:
        """How many statements could be spared, had the first result been kept."""
        return sum(each.count - 1 for each in self.redundant)

    @property
    def loops(self) -> list[Repetition]:
        """What ran from the same place with many different parameters (n+1)."""
        repeated = _repeated(
            self.queries, lambda each: (each.schema, each.statement, each.place), MANY
        )
        return [each for each in repeated if len({query.key for query in each.queries}) >= MANY]


def _repeated(
    queries: Iterable[Query], key: Callable[[Query], Hashable], least: int
) -> list[Repetition]:
    groups: dict[Hashable, list[Query]] = {}
    for query in queries:
        groups.setdefault(key(query), []).append(query)
    return [Repetition(tuple(group)) for group in groups.values() if len(group) >= least]


def _total(queries: Sequence[Query]) -> float:
    return sum(each.seconds or 0.0 for each in queries)

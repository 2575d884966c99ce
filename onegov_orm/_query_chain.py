"""Several queries, read as if they were one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, cast, overload

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
#: Chains have a method of the same name.
_Slice: TypeAlias = slice


class Rows(Protocol[T_co]):
    """What can be chained: a ``Query``, and a chain of them."""

    def __iter__(self) -> Iterator[T_co]: ...

    def slice(self, start: int, stop: int) -> Self: ...

    def count(self) -> int: ...


class QueryChain(Generic[T]):
    """Several queries, one after the other, as far as they are needed.

    :param queries: queries, which may be of different models.
    :param limit: the most rows of all queries together.
    :param offset: how many rows of all queries together are left out at the beginning.

    Nothing is asked for before the first row is, and no query once the limit is reached. A
    chain has no length, which ``list()`` would ask for first; see `count`. It is true if there
    is a row, which takes a query.
    """

    def __init__(
        self, queries: Iterable[Rows[T]], limit: int | None = None, offset: int | None = None
    ) -> None:
        self.queries = tuple(queries)
        for query in self.queries:
            if not hasattr(query, "count"):
                raise TypeError(
                    f"a {type(query).__name__} can't be chained, for it knows no session: use "
                    "session.query(...)"
                )
        self._limit = None if limit is None else _checked(limit)
        self._offset = 0 if offset is None else _checked(offset)

    def __iter__(self) -> Iterator[T]:
        skip, wanted = self._offset, self._limit
        for number, query in enumerate(self.queries, 1):
            if wanted == 0:
                return
            found = 0
            for row in _window(query, skip, wanted):
                found += 1
                yield row
            if found:
                skip = 0
            elif skip and number < len(self.queries):
                skip -= min(skip, query.count())
            wanted = None if wanted is None else wanted - found

    def __bool__(self) -> bool:
        return any(True for _row in self[:1])

    def limit(self, limit: int | None) -> QueryChain[T]:
        """Return a chain of at most so many rows, as `Query.limit` does; None for all."""
        return QueryChain(self.queries, limit, self._offset)

    def offset(self, offset: int | None) -> QueryChain[T]:
        """Return a chain without so many rows at its beginning, as `Query.offset` does."""
        return QueryChain(self.queries, self._limit, offset)

    def slice(self, start: int | None, stop: int | None) -> QueryChain[T]:
        """Return a part of this chain, with positions counted from its first row."""
        start = 0 if start is None else _checked(start)
        ends = [] if self._limit is None else [self._limit]
        ends += [] if stop is None else [_checked(stop)]
        limit = max(min(ends) - start, 0) if ends else None
        return QueryChain(self.queries, limit, self._offset + start)

    def first(self) -> T | None:
        """Return the first row, None without any."""
        return next(iter(self[:1]), None)

    def all(self) -> tuple[T, ...]:
        """Return all rows."""
        return tuple(self)

    def count(self) -> int:
        """Return the number of rows, asking the queries as far as the limit goes."""
        end = None if self._limit is None else self._offset + self._limit
        found = 0
        for query in self.queries:
            if self._limit == 0 or (end is not None and found >= end):
                break
            found += query.count()
        return max((found if end is None else min(found, end)) - self._offset, 0)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: _Slice) -> QueryChain[T]: ...

    def __getitem__(self, index: int | _Slice) -> T | QueryChain[T]:
        if isinstance(index, _Slice):
            if index.step is not None:
                raise ValueError("a chain of queries is read row by row: leave out the step")
            return self.slice(index.start, index.stop)
        for row in self.slice(index, index + 1):
            return row
        raise IndexError(f"the chain of queries has no row {index}")


def _checked(position: int) -> int:
    if position < 0:
        raise IndexError(f"rows are counted from the first one: {position} is before that")
    return position


def _window(query: Rows[T], skip: int, wanted: int | None) -> Iterator[T]:
    """Yield rows of one query, leaving out some."""
    if not skip and wanted is None:
        return iter(query)
    end = None if wanted is None else skip + wanted
    if _has_window(query):
        return islice(query, skip, end)
    # Without an end too, which its annotations don't tell.
    return iter(query.slice(skip, cast("Any", end)))


def _has_window(query: object) -> bool:
    # Another LIMIT would replace the query's own, and make it return more than it should.
    limits = ("_limit_clause", "_offset_clause", "_statement")
    return any(getattr(query, limit, None) is not None for limit in limits)

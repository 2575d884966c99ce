"""Drift: which schemas differ from the models, or from the majority, and in what."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from onegov_orm.fleet._drift_comparison import Items, Pair, by_key, compare
from onegov_orm.fleet._drift_reading import Reader
from onegov_orm.fleet._drift_reference import Reference, reference
from onegov_orm.fleet.fingerprints import Item, fingerprints, structures

if TYPE_CHECKING:
    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.fleet.registry import Customer

#: How many schemas are read at a time: the server's process needs 0.25 MB for each that has
#: twenty tables.
_BATCH: Final = 200
#: The same for those that differ, of which everything is fetched.
_DETAILS_BATCH: Final = 25

_LOCK_TIMEOUT_SECONDS: Final = 10.0

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a schema differs: expected by the models or the majority, and found.

    ``expected`` and ``found`` are definitions, empty where being there says it all; None
    means that there is no such thing. ``kind`` and ``name`` are those of an `Item`.
    """

    schema: str
    kind: str
    name: str
    expected: str | None
    found: str | None
    against: Literal["models", "majority"] = "models"

    @property
    def message(self) -> str:
        """The difference as a sentence, without the schema."""
        subject = f"{self.kind} {self.name}".strip()
        if self.kind == "schema":
            return self.found or ""
        if self.found is None:
            return f"{subject} is missing" + (f": {self.expected}" if self.expected else "")
        if self.expected is None:
            return f"{subject} is not in the {self.against}" + (
                f": {self.found}" if self.found else ""
            )
        return f"{subject} is {self.found or 'plain'}, not {self.expected or 'plain'}"

    def as_dict(self) -> dict[str, Any]:
        """Return the difference, as JSON has it."""
        return {
            "schema": self.schema,
            "kind": self.kind,
            "name": self.name,
            "expected": self.expected,
            "found": self.found,
            "against": self.against,
        }


@dataclass(frozen=True, slots=True)
class DriftReport:
    """How schemas differ from the models, and from what most of them are.

    ``majority`` is what the models and most schemas do not agree about, told once, and in the
    name of one of them; ``differences`` is what single schemas have beside. ``notes`` are
    no drift: what most schemas have beside the models, made when they were new, say.
    """

    schemas: int
    majority_size: int
    majority: tuple[Difference, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    was_compared_with_models: bool
    seconds: float

    @property
    def is_ok(self) -> bool:
        """Whether all schemas are as the models have it, which needs to have been asked."""
        return self.was_compared_with_models and not self.majority and not self.differences

    @property
    def drifted(self) -> list[str]:
        """The schemas that differ from the majority, sorted."""
        return sorted({difference.schema for difference in self.differences})

    def as_dict(self) -> dict[str, Any]:
        """Return the report, as JSON has it."""
        return {
            "is_ok": self.is_ok,
            "schemas": self.schemas,
            "majority_size": self.majority_size,
            "was_compared_with_models": self.was_compared_with_models,
            "seconds": round(self.seconds, 3),
            "drifted": self.drifted,
            "majority": [difference.as_dict() for difference in self.majority],
            "differences": [difference.as_dict() for difference in self.differences],
            "notes": list(self.notes),
        }


def check(
    context: FleetContext,
    *,
    schemas: Iterable[str] | None = None,
    on_progress: OnProgress | None = None,
    lock_timeout_seconds: float = _LOCK_TIMEOUT_SECONDS,
) -> DriftReport:
    """Compare customers with the models, and with each other; the shared schema too.

    What the models describe is made in a transaction that is rolled back. ``on_progress`` is
    called with the number of schemas that were looked at, and that of all. Raises
    `SchemaNotFound` and `ForeignSchema` for names that are given and no customer's.
    """
    started = time.monotonic()
    customers = context.customers(names=schemas)
    reader = Reader(context, lock_timeout_seconds)
    prints = _fingerprints(reader, [str(each.schema) for each in customers], on_progress)
    expected = reference(context, lock_timeout_seconds)
    found = _compare_all(reader, prints, expected)
    shared = _compare_shared(reader, context.manager.provisioner.shared_schema, expected.shared)
    unread = [
        Difference(schema, "schema", "", "", f"could not be read: {reason}")
        for schema, reason in sorted(reader.failures.items())
    ]
    return DriftReport(
        len(prints),
        found.majority_size,
        found.majority,
        (*found.differences, *shared, *unread),
        (*expected.notes, *found.notes, *_bookkeeping_notes(customers)),
        expected.customer is not None,
        time.monotonic() - started,
    )


def _fingerprints(
    reader: Reader, names: Sequence[str], on_progress: OnProgress | None
) -> dict[str, str]:
    prints: dict[str, str] = {}
    for number, batch in enumerate(reader.read(names, _BATCH, fingerprints), start=1):
        prints |= batch
        if on_progress is not None:
            on_progress(min(number * _BATCH, len(names)), len(names))
    return prints


@dataclass(frozen=True, slots=True)
class _Findings:
    majority_size: int = 0
    majority: tuple[Difference, ...] = ()
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


def _compare_all(reader: Reader, prints: Mapping[str, str], expected: Reference) -> _Findings:
    groups: dict[str, list[str]] = {}
    for schema, digest in prints.items():
        groups.setdefault(digest, []).append(schema)
    # Of groups of the same size, that of the first schema by name.
    ranked = sorted(groups.values(), key=lambda group: (-len(group), group[0]))
    if not ranked:
        return _Findings()
    leader, *others = ranked
    majority = next((items for _, items in _structures(reader, [leader])), None)
    if majority is None:
        # It went away, or can't be read any more: nobody can tell what the others should be.
        return _Findings(notes=(f"{leader[0]} went away while it was looked at",))
    differences = [
        difference
        for group, items in _structures(reader, others)
        for difference in _of_group(group, items, majority, expected.customer)
    ]
    differences.sort(key=lambda each: (each.schema, each.kind, each.name))
    beside, notes = _of_majority(leader, majority, expected.customer)
    return _Findings(len(leader), beside, tuple(differences), notes)


def _structures(
    reader: Reader, groups: Sequence[Sequence[str]]
) -> Iterator[tuple[Sequence[str], Items]]:
    """Yield each group of equal schemas with what its first one holds."""
    by_name = {group[0]: group for group in groups}
    for batch in reader.read(list(by_name), _DETAILS_BATCH, structures):
        for name, items in batch.items():
            yield by_name[name], by_key(items)


def _of_group(
    group: Sequence[str], items: Items, majority: Items, models: Items | None
) -> Iterator[Difference]:
    """Yield how the schemas of a group differ from the majority, told by whom it is wrong."""
    for (kind, name), (usual, found) in compare(majority, items).items():
        wanted = None if models is None else models.get((kind, name))
        by_models = wanted is not None and wanted != found
        pair = (wanted if by_models else usual, found)
        for schema in group:
            yield _difference(schema, (kind, name), pair, "models" if by_models else "majority")


def _of_majority(
    group: Sequence[str], items: Items, models: Items | None
) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Return how the majority differs from the models, and what it has beside them."""
    if models is None:
        return (), ()
    pairs = compare(models, items)
    differences = tuple(
        _difference(group[0], key, pair, "models")
        for key, pair in pairs.items()
        if pair[0] is not None
    )
    beside = [f"{kind} {name}" for (kind, name), pair in pairs.items() if pair[0] is None]
    notes = tuple(f"{len(group)} schemas have {what}, which is in no model" for what in beside)
    return differences, notes


def _compare_shared(reader: Reader, schema: str, models: Items | None) -> Iterator[Difference]:
    if models is None:
        return
    for batch in reader.read([schema], 1, structures):
        for key, pair in compare(models, by_key(batch.get(schema, ()))).items():
            yield _difference(schema, key, pair, "models")


def _difference(
    schema: str, key: tuple[str, str], pair: Pair, against: Literal["models", "majority"]
) -> Difference:
    expected, found = map(_definition, pair)
    return Difference(schema, *key, expected, found, against)


def _definition(item: Item | None) -> str | None:
    return None if item is None else item.definition


def _bookkeeping_notes(customers: Sequence[Customer]) -> Iterator[str]:
    """Yield which customers lack a table of the library's that others have."""
    for table, has in (
        ("alembic_version", {str(each.schema): each.has_versions for each in customers}),
        ("upgrades", {str(each.schema): each.has_upgrades for each in customers}),
    ):
        counts = Counter(has.values())
        if len(counts) == 2:
            lacking = [schema for schema, is_there in has.items() if not is_there]
            shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            yield f"{counts[False]} schemas have no table {table}: {shown}"

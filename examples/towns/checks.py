"""What has to hold in the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .facts import TownFacts
from .index import SearchIndex
from .meter import Meter
from .scenario import Failure, Finding
from .traffic import Tally


@dataclass(frozen=True)
class Check:
    """A claim, whether it holds, and what that is concluded from."""

    claim: str
    holds: bool
    evidence: str


def check_rows(facts: Sequence[TownFacts]) -> Check:
    """Tell whether each row stands where it belongs."""
    rows = sum(sum(fact.rows.values()) for fact in facts)
    foreign = sum(fact.foreign_rows for fact in facts)
    evidence = f"{foreign} foreign rows among {rows}"
    return Check("Each row stands in the schema of its own town", foreign == 0 < rows, evidence)


def check_answers(tallies: Sequence[Tally]) -> Check:
    """Tell whether the visitors of each town saw that town alone."""
    rows = sum(tally.rows for tally in tallies)
    foreign = sum(tally.foreign_rows for tally in tallies)
    requests = sum(tally.requests for tally in tallies)
    evidence = f"{foreign} foreign rows among {rows} in {requests} answers"
    return Check("Nobody was shown a row of another town", foreign == 0 < rows, evidence)


def check_index(facts: Sequence[TownFacts], index: SearchIndex) -> Check:
    """Tell whether the index is what it would be if it were made anew."""
    held = {fact.town: index.of(fact.town).documents for fact in facts}
    differing = [fact.town for fact in facts if fact.index.documents != held[fact.town]]
    evidence = f"{sum(map(len, held.values()))} index entries, {_differing(differing)}"
    return Check("The index holds what the database holds", not differing, evidence)


def check_findings(findings: Sequence[Finding]) -> Check:
    """Tell whether index and database find the same."""
    differing = [f"{f.words} in {f.town}" for f in findings if f.by_index != f.by_database]
    found = sum(len(finding.by_index) for finding in findings)
    evidence = f"{found} found by {len(findings)} searches, {_differing(differing)}"
    return Check("The index finds what unaccent() finds", found > 0 and not differing, evidence)


def check_failure(failure: Failure) -> Check:
    """Tell whether the failed request wrote something, and left nothing."""
    is_undone = failure.before == failure.after and failure.commits == 0
    evidence = f"{failure.written} bookings written and rolled back"
    return Check(
        "The request that failed left nothing", is_undone and failure.written > 0, evidence
    )


def check_schemas(
    schemas: Sequence[str], expected: Iterable[str], outside: Sequence[str]
) -> Check:
    """Tell whether there are the schemas of the towns, and no tables in ``public``."""
    evidence = f"{len(schemas)} schemas, {len(outside)} tables in public"
    holds = list(schemas) == sorted(expected) and not outside
    return Check("Each town has a schema, and nothing is outside", holds, evidence)


def check_costs(meter: Meter) -> Check:
    """Tell whether ``BEGIN`` and the search path cost no round trip of their own."""
    total = meter.total()
    expected = total.statements + total.requests
    evidence = f"{total.round_trips} round trips counted, {expected} expected"
    holds = total.round_trips == expected
    return Check("A request costs its statements and a COMMIT", holds, evidence)


def _differing(names: Sequence[str]) -> str:
    return f"differing: {', '.join(names) or 'none'}"

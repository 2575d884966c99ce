"""What was measured of fleets: as tables for people, and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import fleet_check, fleet_serving, fleet_spares
from benchmarks.fleet_migrations import LOOP, Result, Row, Standing
from benchmarks.measure import Summary
from benchmarks.report import Grid, middle

_UNKNOWN: Final = "?"


@dataclass
class FleetReport:
    """Everything that one run measured; what it left out is empty."""

    environment: dict[str, str] = field(default_factory=dict)
    standings: list[Standing] = field(default_factory=list)
    migrations: list[Result] = field(default_factory=list)
    serving: fleet_serving.Result | None = None
    spares: fleet_spares.Result | None = None
    check: fleet_check.Result | None = None

    def write_json(self, path: Path) -> None:
        """Write all figures."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def grids(report: FleetReport) -> list[Grid]:
    """Return the tables of a report."""
    found = [_standing_grid(standing) for standing in report.standings]
    found += [_migrations_grid(result) for result in report.migrations]
    if report.serving:
        found.append(_questions_grid(report.serving))
        found.append(_serving_grid(report.serving))
    if report.spares:
        found.append(_spares_grid(report.spares))
    if report.check:
        found.append(_check_grid(report.check))
    return found


def _migrations_grid(result: Result) -> Grid:
    header = ["contestant", "seconds", "of it CPU", "ms per schema", "ratio", "MB: largest", "all"]
    rows = [cells for row in result.rows for cells in _migration_cells(row)]
    return Grid(f"Migrating {result.schemas} schemas: {result.task}", header, rows)


def _migration_cells(row: Row) -> Iterator[list[str]]:
    name = row.contestant
    if row.sampled:
        name = f"{name} (from {row.sampled})"
    yield [
        name,
        _spread(row.seconds),
        f"{row.processor.median:.2f}",
        f"{row.milliseconds_per_schema.median:.1f}",
        "" if row.contestant == LOOP else _spread(row.ratio),
        f"{row.largest_mb:.0f}",
        f"{row.all_mb:.0f}" if row.all_mb else _UNKNOWN,
    ]
    if row.inside and row.inside_ratio:
        ratio = "" if row.contestant == LOOP else _spread(row.inside_ratio)
        yield ["  the run itself", _spread(row.inside), "", "", ratio, "", ""]


def _standing_grid(standing: Standing) -> Grid:
    return Grid(
        f"{standing.schemas} schemas of twenty tables",
        ["", "ms"],
        [
            ["make one of them", f"{standing.provision_milliseconds:.1f}"],
            ["what is pending", middle(standing.status_milliseconds)],
        ],
    )


def _questions_grid(result: fleet_serving.Result) -> Grid:
    return Grid(
        f"{result.schemas} schemas of {result.tables} tables",
        ["", "ms"],
        [
            ["make one of them", f"{result.provision:.1f}"],
            ["all customers", middle(result.listed)],
            ["all names of schemas", middle(result.schemas_listed)],
            ["an overview, with sizes", middle(result.overview)],
            ["what is pending", middle(result.pending)],
        ],
    )


def _serving_grid(result: fleet_serving.Result) -> Grid:
    return Grid(
        f"{result.schemas} customers served by one process",
        ["", "ms: read", "write", "MB grown", "MB of the server's process", "connections"],
        [
            [
                each.way,
                f"{each.reading.median:.2f}",
                f"{each.writing.median:.2f}",
                f"{each.growth_mb:.1f}",
                f"{each.backend.own:.0f}" if each.backend else _UNKNOWN,
                str(each.connections),
            ]
            for each in result.served
        ],
    )


def _spares_grid(result: fleet_spares.Result) -> Grid:
    return Grid(
        f"The first answer to a new customer, {result.tables} tables",
        ["contestant", "ms", "ratio"],
        [[row.contestant, middle(row.milliseconds), str(row.ratio)] for row in result.rows],
    )


def _check_grid(result: fleet_check.Result) -> Grid:
    was_found = result.found == [result.altered]
    return Grid(
        f"A look at {result.schemas} schemas of {result.tables} tables",
        ["", "ms"],
        [
            ["check all of them", middle(result.check)],
            ["the one that was altered", "was found" if was_found else "WAS NOT FOUND"],
            ["all customers", middle(result.listed)],
            ["an overview, with sizes", middle(result.overview)],
            ["what is pending", middle(result.pending)],
        ],
    )


def _spread(summary: Summary) -> str:
    """Return the median; with the quartiles, unless there was but one round."""
    return str(summary) if summary.count > 1 else f"{summary.median:.2f}"

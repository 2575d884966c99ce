"""What was measured: as tables for people, JSON for machines, and Markdown for the README."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.concurrency import Result as CrowdResult
from benchmarks.contestants import OURS
from benchmarks.imports import ImportTimes
from benchmarks.measure import Summary
from benchmarks.memory import Growth
from benchmarks.provisioning import LongRow
from benchmarks.provisioning import Row as ProvisioningRow
from benchmarks.requests import Result
from benchmarks.requests import Row as RequestRow


@dataclass
class Report:
    """Everything that one run measured; what it left out is empty."""

    environment: dict[str, str] = field(default_factory=dict)
    requests: list[Result] = field(default_factory=list)
    concurrency: list[CrowdResult] = field(default_factory=list)
    provisioning: list[ProvisioningRow] = field(default_factory=list)
    long: LongRow | None = None
    memory: Growth | None = None
    imports: ImportTimes | None = None

    def write_json(self, path: Path) -> None:
        """Write all figures."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class Grid:
    """A table, before it is known how it is shown."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def grids(report: Report) -> list[Grid]:
    """Return the tables of a report."""
    found = [_requests_grid(result) for result in report.requests]
    found.extend(map(_crowd_grid, report.concurrency))
    if report.provisioning:
        found.append(_provisioning_grid(report.provisioning))
    if report.long:
        found.append(_long_grid(report.long))
    if report.memory:
        found.append(_memory_grid(report.memory))
    if report.imports:
        found.append(_imports_grid(report.imports))
    return found


def show(console: Console, grid: Grid) -> None:
    """Print a table; our own rows stand out."""
    table = Table(title=grid.title, title_justify="left")
    for number, name in enumerate(grid.header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(*row, style="bold" if row[0].startswith(OURS) else None)
    console.print(table)


def markdown(report: Report) -> str:
    """Return the tables as Markdown."""
    return markdown_of(grids(report), report.environment)


def markdown_of(tables: Sequence[Grid], environment: Mapping[str, str]) -> str:
    """Return tables as Markdown, and what they were measured with."""
    measured = ", ".join(f"{name} {value}" for name, value in environment.items())
    parts = [_markdown_table(grid) for grid in tables]
    return "\n\n".join([*parts, f"Measured with: {measured}."]) + "\n"


def _markdown_table(grid: Grid) -> str:
    lines = [f"**{grid.title}**", ""]
    lines.append(_markdown_row(grid.header))
    lines.append(_markdown_row(["---"] + ["---:"] * (len(grid.header) - 1)))
    for row in grid.rows:
        is_ours = row[0].startswith(OURS)
        lines.append(_markdown_row([f"**{cell}**" if is_ours and cell else cell for cell in row]))
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _requests_grid(result: Result) -> Grid:
    has_engines = any(row.to_engines for row in result.rows)
    header = ["contestant", "round trips", "ms", "of it CPU", "ratio to bare"]
    return Grid(
        result.title,
        header + ["to engines"] * has_engines,
        [_request_cells(row) + [str(row.to_engines or "")] * has_engines for row in result.rows],
    )


def _request_cells(row: RequestRow) -> list[str]:
    is_baseline = row.contestant == row.baseline
    return [
        row.contestant,
        f"{row.round_trips:g}",
        f"{row.milliseconds.median:.3f}",
        f"{row.processor.median:.3f}",
        "" if is_baseline else str(row.ratio),
    ]


def _crowd_grid(result: CrowdResult) -> Grid:
    return Grid(
        result.title,
        ["contestant", "per second", "ms: p50", "p95", "p99", "ratio to bare", "of the p99"],
        [
            [
                row.contestant,
                f"{row.per_second.median:.0f}",
                f"{row.p50.median:.0f}",
                f"{row.p95.median:.0f}",
                f"{row.p99.median:.0f}",
                str(row.ratio) if number else "",
                str(row.p99_ratio) if number else "",
            ]
            for number, row in enumerate(result.rows)
        ],
    )


def _provisioning_grid(rows: Sequence[ProvisioningRow]) -> Grid:
    return Grid(
        "A schema of sixty tables",
        ["contestant", "ms", "ratio to the script sent by hand"],
        [[row.contestant, middle(row.milliseconds), str(row.ratio)] for row in rows],
    )


def _long_grid(long: LongRow) -> Grid:
    return Grid(
        f"{long.schemas} schemas, one after another",
        ["", "ms per schema"],
        [
            [f"the first {long.first.count}", middle(long.first)],
            [f"the last {long.last.count}", middle(long.last)],
            ["last to first", f"{long.ratio:.2f}"],
        ],
    )


def _memory_grid(growth: Growth) -> Grid:
    return Grid(
        f"Memory, while {growth.schemas} schemas pass through",
        ["", "MB more"],
        [
            ["the process", f"{growth.process:.1f}"],
            ["the server's process of its one connection", f"{growth.backend:.1f}"],
        ],
    )


def _imports_grid(times: ImportTimes) -> Grid:
    return Grid(
        "Import",
        ["", "ms"],
        [
            ["import onegov_orm", middle(times.library)],
            ["its dependencies alone", middle(times.dependencies)],
            ["ratio", str(times.ratio)],
        ],
    )


def middle(summary: Summary) -> str:
    """Return the median, with the quartiles in brackets."""
    return f"{summary.median:.1f} [{summary.lower:.1f}, {summary.upper:.1f}]"

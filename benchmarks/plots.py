"""Plots of a report; needs matplotlib, of the extra ``bench``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import OURS

if TYPE_CHECKING:
    from benchmarks.fleet_report import FleetReport
    from benchmarks.measure import Summary
    from benchmarks.report import Report

_OWN_COLOR = "tab:green"
_COLOR = "tab:gray"


def is_available() -> bool:
    """Tell whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_plots(report: Report, directory: Path) -> list[Path]:
    """Write one picture for each part of the report, and return where they are."""
    # An extra, which takes half a second to import.
    import matplotlib as mpl

    mpl.use("Agg")
    paths = [
        _bars(directory / f"{_slug(result.title)}.png", result.title, bars)
        for result in report.requests
        if (bars := [(row.contestant, row.ratio) for row in result.rows])
    ]
    paths += [
        _bars(
            directory / f"{_slug(result.title)}.png",
            f"{result.title}: 99th percentile",
            [(row.contestant, row.p99_ratio) for row in result.rows],
        )
        for result in report.concurrency
    ]
    if report.provisioning:
        bars = [(row.contestant, row.ratio) for row in report.provisioning]
        paths.append(_bars(directory / "provisioning.png", "A schema of sixty tables", bars))
    if report.long:
        paths.append(_line(directory / "long.png", report.long.milliseconds))
    return paths


def _slug(title: str) -> str:
    return "-".join(title.replace(",", " ").split())


def write_fleet_plots(report: FleetReport, directory: Path) -> list[Path]:
    """Write one picture for each task of the migrations, and return where they are."""
    # See `write_plots`.
    import matplotlib as mpl

    mpl.use("Agg")
    return [
        _bars(
            directory / f"fleet-{_slug(title)}.png",
            title,
            [(row.contestant, row.ratio) for row in result.rows],
            scale="log",
        )
        for result in report.migrations
        if (title := f"{result.schemas} schemas, {result.task}")
    ]


def _bars(path: Path, title: str, bars: list[tuple[str, Summary]], scale: str = "linear") -> Path:
    figure, axes = _figure(0.4 * len(bars) + 1.2)
    names = [name for name, _ in bars]
    middles = [ratio.median for _, ratio in bars]
    spread = [
        [ratio.median - ratio.lower for _, ratio in bars],
        [ratio.upper - ratio.median for _, ratio in bars],
    ]
    colors = [_OWN_COLOR if name.startswith(OURS) else _COLOR for name in names]
    axes.barh(names, middles, xerr=spread, color=colors)
    axes.set_xscale(scale)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("time, compared with the baseline: median and quartiles of the rounds")
    axes.set_title(title)
    return _save(figure, path)


def _line(path: Path, milliseconds: list[float]) -> Path:
    figure, axes = _figure(4)
    axes.plot(milliseconds, ".", markersize=3, color=_OWN_COLOR)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("schemas that exist")
    axes.set_ylabel("milliseconds for one more")
    return _save(figure, path)


def _figure(height: float) -> tuple[Any, Any]:
    # See `write_plots`.
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(9, height), layout="constrained")


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path

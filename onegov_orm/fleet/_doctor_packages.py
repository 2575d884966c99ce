"""Examines the Python packages that are installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from onegov_orm.fleet._doctor_verdict import Examination, Finding, error, fine, skipped

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*([0-9][0-9.]*)")


def packages(_examination: Examination) -> Iterator[Finding]:
    """Compare the versions with the lowest ones that the library was tested with."""
    try:
        requirements = requires("onegov_orm") or []
    except PackageNotFoundError:
        yield skipped("onegov_orm is not installed as a package")
        return
    outdated = sorted(
        f"{name} {found}, at least {least} is needed"
        for name, least in {
            match.groups() for match in map(_REQUIREMENT.match, requirements) if match
        }
        if (found := _installed(name)) is not None and _numbers(found) < _numbers(least)
    )
    if outdated:
        names = " ".join(line.partition(" ")[0] for line in outdated)
        yield error(f"outdated packages: {'; '.join(outdated)}", f"pip install -U {names}")
    else:
        yield fine("all packages are recent enough")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> list[int]:
    """Return a version's numbers; what marks a version as not final yet is left out."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return [int(number) for number in match.group().split(".")] if match else []

"""The package's metadata, and the files that go with a release."""

from __future__ import annotations

import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

REQUIREMENTS = [
    line
    for text in (SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values())
    for line in text.splitlines()
    if line and not line.startswith("onegov_orm[")
]
FRAGMENTS = sorted((ROOT / "changes").glob("[0-9]*"))


@pytest.mark.parametrize("requirement", sorted(set(REQUIREMENTS)))
def test_every_requirement_has_a_lower_bound(requirement: str) -> None:
    assert re.fullmatch(r"[\w.\[\]-]+>=[\d.]+", requirement)


def test_types_are_part_of_the_package() -> None:
    assert "py.typed" in SETUP["options.package_data"]["onegov_orm"]
    assert (ROOT / "onegov_orm" / "py.typed").read_bytes() == b""


def test_all_means_every_extra_for_users() -> None:
    names = list(SETUP["options.extras_require"])
    for_users = names[: names.index("all")]
    assert SETUP["options.extras_require"]["all"].strip() == f"onegov_orm[{','.join(for_users)}]"


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.name)
def test_changes_are_told_in_the_right_form(fragment: Path) -> None:
    kinds = [each["directory"] for each in PROJECT["tool"]["towncrier"]["type"]]
    assert re.fullmatch(rf"\d+\.({'|'.join(kinds)})(\.\d+)?\.md", fragment.name)
    assert fragment.read_text().strip().endswith(".")


def test_the_programs_of_the_repository_can_be_executed() -> None:
    for path in (ROOT / ".ci" / "run", *(ROOT / "tools").iterdir()):
        assert path.stat().st_mode & 0o111, path

"""The documentation's programs: they run, and print what stands beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

PROGRAMS = sorted(path.stem for path in (DOCS / "examples").glob("*.txt"))
TESTS = sorted(str(path.relative_to(ROOT)) for path in (DOCS / "examples").glob("test_*.py"))
PAGES = {path.name: path.read_text() for path in DOCS.rglob("*.rst")}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository, warnings being errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_prints_what_the_documentation_says(program: str) -> None:
    ended = run("-m", f"docs.examples.{program}")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == (DOCS / "examples" / f"{program}.txt").read_text()


def test_a_program_warns_where_the_documentation_says_so() -> None:
    assert "was moved to public, and is set again" in run("-m", "docs.examples.switching").stderr


@pytest.mark.parametrize("path", TESTS)
def test_the_documentations_tests_pass(path: str) -> None:
    ended = run("-m", "pytest", "-q", "-p", "no:cacheprovider", path)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    "path", sorted((DOCS / "examples").glob("[!_]*.py")), ids=lambda p: p.stem
)
def test_every_program_is_part_of_a_page(path: Path) -> None:
    assert any(f"examples/{path.name}" in text for text in PAGES.values())

"""The README: its code runs, and what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

FIRST_LINES = 20

BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
LINKS = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
PATHS = re.findall(r"`((?:tests|docs|examples|benchmarks)/[\w/.]+|tests/\w+)`", README)
COMMANDS = re.findall(r"(?:`|\$ )make ([a-z0-9-]+)", README)


def test_the_code_runs_from_top_to_bottom(tmp_path: Path) -> None:
    program = tmp_path / "readme.py"
    program.write_text("\n".join(BLOCKS))
    ended = subprocess.run(
        [sys.executable, "-W", "error", program],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "only PostgreSQL has the schemas this is about, the dsn names sqlite\n"


def test_code_stands_within_the_first_lines() -> None:
    assert "SessionManager(" in "\n".join(README.splitlines()[:FIRST_LINES])


@pytest.mark.parametrize("path", sorted({*LINKS, *PATHS}))
def test_what_is_pointed_to_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_commands_can_be_made(command: str) -> None:
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_figures_have_their_place() -> None:
    assert README.count("<!-- figures -->") == README.count("<!-- /figures -->") == 1

"""Models that use all of the toolbox pass mypy strict, and mistakes in them do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "typing"


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Check files as those of a user's project."""
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_models_with_all_of_the_toolbox_pass_strictly() -> None:
    checked = mypy(*map(str, sorted(SAMPLES.glob("*.py"))))
    assert checked.returncode == 0, checked.stdout

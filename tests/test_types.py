"""py.typed is a promise: the core and by_hand are clean under mypy, as pyproject.toml lists them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.job
def test_the_core_and_by_hand_are_clean():
    result = mypy("--cache-dir", ".pytest_cache/mypy")
    assert result.returncode == 0, result.stdout


@pytest.mark.job
def test_a_wrong_type_in_by_hand_is_found(tmp_path):
    """The guard itself: a file of the core with one wrong type is refused."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text('from tlora_ref.draws import normal\n\nx: str = normal(0, "a", (2,), 1.0)\n')
    result = mypy("--cache-dir", str(tmp_path / "cache"), str(wrong))
    assert result.returncode == 1
    assert "Incompatible types in assignment" in result.stdout

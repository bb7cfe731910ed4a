"""The house: floors that import downwards only, and a method that one file in each room adds to everything."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tlora_ref"

FLOORS = (
    ("shapes",),
    ("draws", "factors", "methods", "files", "targets", "tensor_file", "tables", "terminal"),
    ("by_hand.fast",),
    ("by_hand.ops",),
    ("by_hand.methods",),
    ("by_hand.kernels", "config"),
    ("known", "model", "paper"),
    ("room",),
    ("init", "counts", "growth", "chains", "training", "merging"),
    ("allocate",),
    (
        "by_hand.encoder",
        "by_hand.gradient_factors",
        "by_hand.lora_rite",
        "by_hand.optimizers",
        "by_hand.pretrained",
        "adapter_file",
        "peft_folder",
    ),
    ("by_hand.adapter_io",),
    ("by_hand",),
    ("by_autograd",),
    ("export", "gradcheck"),
    ("verification", "peft"),
    ("lab",),
    ("course",),
)
"""From the ground up. A module belongs to the longest entry that its name starts with."""

ABOVE_ALL = ("", "__main__")  # the package itself and the command line see every floor


def floor_of(name: str) -> int:
    entries = [(len(entry), level) for level, floor in enumerate(FLOORS) for entry in floor if under(name, entry)]
    assert entries, f"{name} stands on no floor: add it to FLOORS"
    return max(entries)[1]


def under(name: str, entry: str) -> bool:
    return name == entry or name.startswith(f"{entry}.")


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> list[str]:
    """The modules of this package that a file imports when it is loaded; what a function imports does not count, and
    neither does what only a type checker reads."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), []
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    every = modules()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            inner = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            found += [full if full in every else base for full in inner]
    return found


@pytest.mark.parametrize("name", sorted(set(modules()) - set(ABOVE_ALL)))
def test_nothing_imports_a_higher_floor(name):
    here = floor_of(name)
    for other in imports(name, modules()[name]):
        assert floor_of(other) <= here, f"{name} (floor {here}) imports {other} (floor {floor_of(other)})"


def test_the_guard_of_the_floors_sees_an_import_upwards(tmp_path):
    """The guard, tried on a file that breaks the rule."""
    wrong = tmp_path / "ops.py"
    wrong.write_text("from ..training import train\nfrom .fast import row_max\n")
    found = imports("by_hand.ops", wrong)
    assert found == ["training", "by_hand.fast"]
    assert floor_of("training") > floor_of("by_hand.ops") > floor_of("by_hand.fast")


def test_no_file_looks_a_kernel_up_by_name():
    """A reader's go-to-definition leads from the encoder's call to the table and from there to the kernel."""
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        if name.startswith(("by_hand", "by_autograd", "verification")) or name in ("methods", "model", "init"):
            assert "import_module" not in text, name
            assert "__import__" not in text, name


# --- adding a method -----------------------------------------------------------------------------------

BY_HAND = '''
"""A toy: LoRA with a trained number in front.  y = x W0 + b + gain * x A B."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tlora_ref.by_hand.methods.lora import lora_draw
from tlora_ref.by_hand.ops import Array, Cache, Grads, rows, wanted
from tlora_ref.methods import Kernel, Method
from tlora_ref.shapes import shaped


def toy_draw(site, W0_IO, config):
    return lora_draw(site, W0_IO, config) | {"gain": np.ones(())}


@shaped
def toy_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RO: Array,
    gain: Array,
    keep_NI: Array | None = None,
) -> tuple[Array, Cache]:
    xd_NI = x_NI if keep_NI is None else keep_NI * x_NI
    u_NR = xd_NI @ A_IR
    y_NO = x_NI @ W0_IO + (gain * u_NR) @ B_RO
    return (y_NO if b_O is None else y_NO + b_O), (xd_NI, u_NR, W0_IO, A_IR, B_RO, gain, keep_NI)


def toy_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    xd_NI, u_NR, W0_IO, A_IR, B_RO, gain, keep_NI = cache
    want = wanted(wrt, "x", "A", "B", "gain")
    utdy_RO = rows(u_NR).T @ rows(dy_NO)
    du_NR = gain * (dy_NO @ B_RO.T)
    dxd_NI = du_NR @ A_IR.T
    grads = {
        "B": gain * utdy_RO,
        "gain": (B_RO * utdy_RO).sum(),
        "A": rows(xd_NI).T @ rows(du_NR),
        "x": dy_NO @ W0_IO.T + (dxd_NI if keep_NI is None else keep_NI * dxd_NI),
    }
    return {key: gradient for key, gradient in grads.items() if key in want}


@shaped
def toy_delta_w(W0_IO: Array, A_IR: Array, B_RO: Array, gain: Array) -> Array:
    return (gain * A_IR) @ B_RO


METHOD = Method(
    name="toy",
    label="Toy",
    paper="none",
    kernel=Kernel("toy_linear", toy_linear_fwd, toy_linear_bwd, ("x", "A", "B", "gain"), "NO", exact=True),
    trained=("A", "B", "gain"),
    draw=toy_draw,
    delta_w=toy_delta_w,
)
'''

BY_AUTOGRAD = '''
"""The toy's twin."""

from __future__ import annotations

from tlora_ref.by_autograd.twin import Twin, frozen_linear, masked
from tlora_ref.shapes import shaped


@shaped
def toy_linear(x_NI, W0_IO, b_O, A_IR, B_RO, gain, keep_NI=None):
    return toy_layer(x_NI, frozen_linear(x_NI, W0_IO, b_O), W0_IO, b_O, masked(keep_NI), A_IR, B_RO, gain)


def toy_layer(x_NI, y_NO, W0_IO, b_O, drop, A_IR, B_RO, gain):
    return y_NO + (gain * (drop(x_NI) @ A_IR)) @ B_RO


@shaped
def toy_delta_w(W0_IO, A_IR, B_RO, gain):
    return (gain * A_IR) @ B_RO


TWIN = Twin(toy_linear, toy_layer, toy_delta_w)
'''

REGISTER = """
import toy_by_hand, toy_by_autograd
from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.by_autograd.kernels import KERNEL_TWINS
from tlora_ref.by_autograd.methods import TWINS

METHODS["toy"] = toy_by_hand.METHOD
KERNELS["toy_linear"] = toy_by_hand.METHOD.kernel
TWINS["toy"] = toy_by_autograd.TWIN
KERNEL_TWINS["toy_linear"] = toy_by_autograd.toy_linear
"""

PROPERTIES = [
    "tests/test_kernels.py", "tests/test_exact.py", "tests/test_family.py", "tests/test_encoder.py",
    "tests/test_twin.py", "tests/test_counts.py", "tests/test_adapter_file.py", "tests/test_inject.py",
    "tests/test_export.py",
]  # fmt: skip
"""Tests that run over the tables, and so over whatever is in them."""


@pytest.fixture
def toy(tmp_path):
    """A folder with the toy's files, to be put in front of everything, and the line of registration in a plugin."""
    (tmp_path / "toy_by_hand.py").write_text(BY_HAND)
    (tmp_path / "toy_by_autograd.py").write_text(BY_AUTOGRAD)
    (tmp_path / "toy_plugin.py").write_text(REGISTER)
    return tmp_path


def python(toy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(toy)!r}); sys.argv[1:] = {list(arguments)!r}\n"
    code += "import toy_plugin\n"
    if arguments[0].startswith("tests/"):
        code += "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    else:
        # one process: the workers of a job are started afresh and know nothing of the toy
        code += "import os; os.cpu_count = lambda: 1\nfrom tlora_ref.__main__ import main; sys.exit(main())"
    root = PACKAGE.parent
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", PROPERTIES)
def test_every_property_covers_a_new_method_unasked(toy, path):
    # the tests of counts draw their methods with hypothesis; the others have one test for each
    chosen = [] if path.endswith("test_counts.py") else ["-k", "toy"]
    result = python(toy, path, "-q", *chosen, "-p", "no:cacheprovider")
    assert result.returncode == 0, result.stdout[-2000:]
    assert " passed" in result.stdout


@pytest.mark.slow
def test_the_properties_find_what_is_wrong_with_a_new_method(toy):
    """The gradient of the toy's gain loses a factor: the property tests of the kernels turn red, unasked."""
    text = BY_HAND.replace('"gain": (B_RO * utdy_RO).sum()', '"gain": 0.5 * (B_RO * utdy_RO).sum()')
    assert text != BY_HAND
    (toy / "toy_by_hand.py").write_text(text)
    result = python(toy, "tests/test_kernels.py", "-q", "-k", "toy", "-p", "no:cacheprovider")
    assert result.returncode == 1
    assert "dgain" in result.stdout


def test_a_kernel_without_its_shape_check_cannot_be_a_method():
    from tlora_ref import InputError
    from tlora_ref.methods import Kernel

    with pytest.raises(InputError, match=r"forward of bare does not check its shapes: decorate it with shapes\.shaped"):
        Kernel("bare", lambda x_NI: (x_NI, ()), lambda dy, cache: {"x": dy}, ("x",), "NI")


@pytest.mark.job
def test_the_jobs_know_a_new_method_unasked(toy):
    counted = python(toy, "count", "--model", "roberta-large", "--rank", "8", "--method", "toy")
    assert counted.returncode == 0, counted.stderr
    assert f"{48 * (8 * 2048 + 1):,}" in counted.stdout
    compared = python(toy, "compare", "--methods", "lora,toy", "--quick", "--out", str(toy / "out"))
    assert compared.returncode == 0, compared.stderr[-2000:]
    assert "toy" in compared.stdout
    timed = python(toy, "bench", "methods", "--quick", "--out", str(toy / "bench"))
    assert timed.returncode == 0, timed.stderr[-2000:]
    assert "Toy" in timed.stdout

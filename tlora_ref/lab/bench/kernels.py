"""Which kernels the matrix products run on, and what in the environment holds them back.

Checked by  tests/test_bench.py
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

HOLDS_BACK = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "BLIS_ARCH_TYPE", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES",
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
)  # fmt: skip
"""Variables by which OpenBLAS, BLIS, NumPy, MKL, oneDNN and PyTorch are told to use other kernels than they would
choose for the processor."""


def kernels() -> list[dict[str, str]]:
    """Library, version and architecture of every BLAS that is loaded, and the file or the package it stands in. An MKL
    that is linked into PyTorch is told of by PyTorch."""
    from threadpoolctl import threadpool_info

    found = [
        {"library": str(info["internal_api"]), "version": str(info["version"]),
         "architecture": str(info.get("architecture") or "unknown"), "of": _owner(str(info["filepath"]))}
        for info in threadpool_info() if info["user_api"] == "blas"
    ]  # fmt: skip
    if not found:  # Accelerate, for one, says nothing to threadpoolctl
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        found = [{"library": blas["name"], "version": blas["version"], "architecture": "unknown", "of": "numpy"}]
    if find_spec("torch") is not None:
        import torch

        if torch.backends.mkl.is_available():
            version = torch.__config__.show().partition("Math Kernel Library Version ")[2].partition(" ")[0]
            found.append({"library": "mkl", "version": version.removesuffix("-Product"),
                          "architecture": torch.backends.cpu.get_cpu_capability(), "of": "torch"})  # fmt: skip
    return sorted(found, key=lambda kernel: kernel["of"])


def _owner(path: str) -> str:
    """The package whose wheel a library came in, or the library's file."""
    folder = Path(path).parent.name
    return folder.removesuffix(".libs") if folder.endswith(".libs") else Path(path).name


def in_words(found: list[dict[str, str]]) -> str:
    """One line: "numpy: openblas 0.3.31, Haswell; torch: mkl 2024.2, AVX2"."""
    return "; ".join(f"{k['of']}: {k['library']} {k['version']}, {k['architecture']}" for k in found)


def held_back(variables: Mapping[str, str] = os.environ) -> str | None:
    """A sentence that names the variables that are set and keep a library from its own choice; None: there is none."""
    held = [f"{name}={variables[name]}" for name in HOLDS_BACK if name in variables]
    if not held:
        return None
    return f"set in the environment, and holding the kernels back that are measured here: {', '.join(held)}"

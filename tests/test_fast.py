"""The tricks for speed: each gives what the plain expression gives, and without it everything still runs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erfc
from strategies import cases

from tlora_ref.by_hand import fast, ops
from tlora_ref.by_hand.kernels import KERNELS

PLAIN = {
    "in_pieces": lambda formula, x: formula(x),
    "row_max": lambda a: a.max(axis=-1, keepdims=True),
    "normal_float32": lambda x: (
        (0.5 * erfc(x.astype(float) * -(0.5**0.5))).astype(np.float32),
        (np.exp(x.astype(float) ** 2 * -0.5) / np.sqrt(2 * np.pi)).astype(np.float32),
    ),
}


def test_every_trick_has_its_plain_expression_here():
    tricks = {name for name, value in vars(fast).items() if callable(value) and value.__module__ == fast.__name__}
    assert tricks - {"keep_freed_memory"} == set(PLAIN)  # which computes nothing, and has a test of its own


@pytest.mark.parametrize("name", PLAIN)
@given(case=st.sampled_from(["gelu", "softmax", "bottleneck_gelu"]).flatmap(cases), single=st.booleans())
def test_a_kernel_gives_the_same_without_the_trick(name, case, single):
    dtype = np.float32 if single else np.float64
    args = {k: v.astype(dtype) if getattr(v, "dtype", None) == np.float64 else v for k, v in case.args.items()}
    out, cache = case.op.fwd(**args)
    grads = case.op.bwd(case.cotangent().astype(dtype), cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, name, PLAIN[name])
        plain, plain_cache = case.op.fwd(**args)
        plain_grads = case.op.bwd(case.cotangent().astype(dtype), plain_cache)
    # the polynomial is off by 7.5e-8, and a few roundings of float32 come to that
    bound = 1e-6 if single else 1e-12
    np.testing.assert_allclose(out, plain, rtol=bound, atol=bound * (1 + np.abs(plain).max(initial=0)))
    for key, gradient in grads.items():
        largest = 1 + np.abs(plain_grads[key]).max(initial=0)
        np.testing.assert_allclose(gradient, plain_grads[key], rtol=bound, atol=bound * largest)


def test_pieces_are_exact_across_their_borders(monkeypatch):
    monkeypatch.setattr(fast, "PIECE", 7)
    x = np.random.default_rng(0).standard_normal((5, 9))
    for piece, whole in zip(fast.in_pieces(ops.gelu_and_slope, x), ops.gelu_and_slope(x), strict=True):
        np.testing.assert_allclose(piece, whole, rtol=4 * np.finfo(float).eps)
        assert piece.shape == x.shape


STEPS = """
import resource
import tlora_ref.by_hand as by_hand
from tlora_ref.init import attach, init_encoder
from tlora_ref.lab.bench.encoder import ADAPTER, data, encoder_config
(x, y), model = data(), attach(init_encoder(encoder_config(128)), ADAPTER)
for done in range(8):
    if done == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    by_hand.loss_and_grads(model, x, y)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the trick is for glibc's malloc")
def test_a_step_finds_the_memory_of_the_one_before():
    """Page faults of a step that keeps 10 MB, 2,500 pages. With its threshold set from outside, malloc does not move
    it, and the count shows what the trick is for."""

    def faults(**env):
        result = subprocess.run(
            [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, env=os.environ | env
        )
        return int(result.stdout)

    assert faults() < 100
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > 1000


def test_the_polynomials_error_is_the_one_that_is_stated():
    x = np.linspace(-12, 12, 20001)
    exact = 0.5 * erfc(x * -(0.5**0.5))
    assert 5e-8 < np.abs(fast.normal_float32(x)[0] - exact).max() < 7.5e-8
    rounded = np.abs(fast.normal_float32(x.astype(np.float32))[0] - 0.5 * erfc(x.astype(np.float32) * -(0.5**0.5)))
    assert rounded.max() < 7.5e-8 + 4 * np.finfo(np.float32).eps


def test_kernels_use_the_tricks():
    assert {"gelu", "softmax"} <= set(KERNELS)
    text = Path(ops.__file__).read_text(encoding="utf-8")
    for trick in PLAIN:
        assert f"fast.{trick}" in text

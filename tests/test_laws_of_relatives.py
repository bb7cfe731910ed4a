"""Laws of the methods outside the three-factor family: HTA's reflections."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref.by_hand.methods import METHODS, hta

SEEDS = st.integers(0, 2**32 - 1)


def reflection(v, unit):
    """H (D, D), as what it makes of the identity's rows."""
    return hta.reflect_fwd(np.eye(v.size), v, unit)[0]


# --- HTA -----------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 9))
def test_htas_reflection_is_symmetric_and_orthogonal_when_its_vector_is_normalised(seed, width):
    v = np.random.default_rng(seed).standard_normal(width)
    H = reflection(v, unit=True)
    np.testing.assert_allclose(H, np.eye(width) - 2 * np.outer(v, v) / (v @ v), rtol=0, atol=1e-14)
    np.testing.assert_allclose(H @ H, np.eye(width), rtol=0, atol=1e-14)
    # as printed, H = I - v v^T has the eigenvalue 1 - |v|^2 along v: a reflection at |v|^2 = 2 and nowhere else
    printed = reflection(v, unit=False)
    np.testing.assert_allclose(printed @ v, (1 - v @ v) * v, rtol=0, atol=1e-12 * (1 + v @ v) ** 2)
    drawn = v * np.sqrt(2 / (v @ v))
    np.testing.assert_allclose(reflection(drawn, unit=False), H, rtol=0, atol=1e-14)
    assert np.abs(reflection(1.1 * drawn, unit=False) @ v + v).max() > 0.1 * np.abs(v).max()


@given(SEEDS, st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.sampled_from(["hta", "hta_unit"]))
def test_htas_update_is_the_product_of_its_matrices(seed, I, O, R, method):
    """Against H and D written out, for matrices wider in than out, out than in, and square; where the vectors are
    normalised, W' without the patch has the singular values |diag|, and is as far from W0 as diag is long."""
    r = np.random.default_rng(seed)
    left, right, diag = r.standard_normal(I), r.standard_normal(O), r.standard_normal(min(I, O))
    p, q = r.standard_normal((I, R)), r.standard_normal((R, O))
    D = np.zeros((I, O))
    np.fill_diagonal(D, diag)
    unit = method == "hta_unit"
    expected = p @ q + reflection(left, unit) @ D @ reflection(right, unit)
    dW = METHODS[method].delta_w(np.zeros((I, O)), left, right, diag, p, q)
    np.testing.assert_allclose(dW, expected, rtol=0, atol=1e-13 * (1 + np.abs(expected).max()))
    if unit:
        bare = METHODS[method].delta_w(np.zeros((I, O)), left, right, diag, p, 0 * q)
        found = np.linalg.svd(bare, compute_uv=False)
        np.testing.assert_allclose(found, np.sort(np.abs(diag))[::-1], rtol=0, atol=1e-13 * np.abs(diag).max())


@given(SEEDS)
def test_the_length_of_a_normalised_vector_changes_nothing(seed):
    """H is the same for v and c v, so dv is orthogonal to v; for the printed form neither holds."""
    r = np.random.default_rng(seed)
    x, v, dy = r.standard_normal((4, 5)), r.standard_normal(5), r.standard_normal((4, 5))
    y, cache = hta.reflect_fwd(x, v, unit=True)
    np.testing.assert_allclose(hta.reflect_fwd(x, -3.0 * v, unit=True)[0], y, rtol=0, atol=1e-13)
    dv = hta.reflect_bwd(dy, cache)["v"]
    assert abs(v @ dv) <= 1e-13 * np.linalg.norm(x) * np.linalg.norm(dy)
    y, cache = hta.reflect_fwd(x, v, unit=False)
    dv = hta.reflect_bwd(dy, cache)["v"]
    # d/dc of <dy, x H(c v)> at c = 1
    assert v @ dv == pytest.approx(2 * np.sum(dy * (y - x)), rel=1e-9, abs=1e-9)


def test_htas_diagonal_moves_first_and_its_vectors_after_it():
    """diag = 0 and q = 0 at the start: only they have a gradient; with diag moved, the vectors have one, too."""
    from test_encoder import tiny
    from test_family import config

    from tlora_ref import attach
    from tlora_ref.by_hand import loss_and_grads

    for method in ("hta", "hta_unit"):
        base, inputs, labels, _ = tiny()
        model = attach(base, config(method))
        grads = loss_and_grads(model, inputs, labels)[1]
        moving = {name.rpartition(".")[2] for name, g in grads.items() if g.any()}
        assert moving == {"diag", "q"}
        moved = model.with_params({n: a + 0.1 for n, a in model.params.items() if n.endswith((".diag", ".q"))})
        assert all(g.any() for g in loss_and_grads(moved, inputs, labels)[1].values())


@pytest.mark.parametrize(("patch", "printed"), [(0, 110_592), (1, 184_320), (2, 258_048), (4, 405_504)])
def test_htas_counts_over_the_rank_of_its_patch(patch, printed):
    """Its ablation on ViT-B: 0.15M, 0.22M, 0.30M and 0.44M with a head of 0.04M."""
    from tlora_ref.counts import trained

    count = trained("hta", [(768, 768)] * 48, max(patch, 1)) - (0 if patch else 48 * 2 * 768)
    assert count == printed

"""The analysis functions on constructed cases whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tlora_ref import AdapterConfig, EncoderConfig, InputError, by_hand, merge
from tlora_ref.init import attach, init_encoder
from tlora_ref.lab.analysis.conserved import MOMENTUM, OPTIMIZERS, conserved, descend, drift
from tlora_ref.lab.analysis.distribution import describe, histogram
from tlora_ref.lab.analysis.measures import schedule_share
from tlora_ref.lab.analysis.norms import factor_norms, late_growth, trajectory, validation_rise
from tlora_ref.lab.analysis.similarity import (
    cosine,
    overlap,
    principal_angles,
    relative_difference,
    unrelated,
    unrelated_cosine,
)
from tlora_ref.lab.analysis.spectra import (
    effective_rank,
    eigenvalues,
    positive_share,
    real_parts,
    singular_values,
    spectral_distance,
)
from tlora_ref.lab.analysis.statistics import column_effect, holm, mean_interval, p_above
from tlora_ref.lab.analysis.subspace import best_share, captured_share, isotropic_share, share_std
from tlora_ref.lab.analysis.updates import update
from tlora_ref.shapes import ShapeError
from tlora_ref.training import History

ENCODER = EncoderConfig(width=8, layers=2, heads=2, hidden=12, time=5, features=6, classes=3)


def rng(seed=0):
    return np.random.default_rng(seed)


def orthogonal(n, k, seed=0):
    return np.linalg.qr(rng(seed).standard_normal((n, k)))[0]


def trained_tlora(rank=3):
    """A TLoRA model away from its start, and its base."""
    base = init_encoder(ENCODER, dtype=np.float64)
    model = attach(base, AdapterConfig(rank=rank))
    moved = {n: np.asarray(model.params[n] + rng(7).standard_normal(model.params[n].shape)) for n in model.trained}
    return base, model.with_params(moved)


# --- updates and norms ---------------------------------------------------------------------------


def test_the_update_is_alpha_a_b_c_merged_or_not_and_w_minus_w0_after_full_fine_tuning():
    base, model = trained_tlora()
    name = "layers.1.value"
    A, B, C, alpha = (model.params[f"{name}.{k}"] for k in ("A", "B", "C", "alpha"))
    wanted = alpha * A @ B @ C
    np.testing.assert_allclose(update(model, base, name), wanted, rtol=1e-12)
    np.testing.assert_allclose(update(merge(by_hand, model), base, name), wanted, rtol=1e-12, atol=1e-13)
    moved = base.with_params({f"{name}.W": base.params[f"{name}.W"] + wanted})
    np.testing.assert_allclose(update(moved, base, name), wanted, rtol=1e-12, atol=1e-13)
    assert not update(base, base, name).any()
    with pytest.raises(InputError, match=r"'layers.5.query' is not a matrix"):
        update(model, base, "layers.5.query")


def test_a_model_of_the_other_room_gives_the_same_once_it_is_numpy():
    from tlora_ref.by_autograd import to_numpy, to_torch

    base, model = trained_tlora()
    back = to_numpy(to_torch(model))
    assert np.array_equal(update(back, base, "layers.0.query"), update(model, base, "layers.0.query"))
    assert factor_norms(back) == factor_norms(model)


def test_factor_norms_are_spectral_by_matrix_and_factor():
    _, model = trained_tlora()
    norms = factor_norms(model)
    assert set(norms) == {f"layers.{i}.{t}" for i in (0, 1) for t in ("query", "value")}
    for name, found in norms.items():
        assert set(found) == {"A", "B", "C"}
        for factor, value in found.items():
            M = model.params[f"{name}.{factor}"]
            assert value**2 == pytest.approx(np.linalg.eigvalsh(M @ M.T)[-1])
    lora = attach(init_encoder(ENCODER), AdapterConfig(method="lora", rank=2))
    assert {k for found in factor_norms(lora).values() for k in found} == {"A", "B"}


def test_the_trajectory_is_what_the_history_recorded():
    history = History(alpha={"q": [1.0, 1.5]}, B_norm={"q": [0.0, 2.0], "v": [0.0, 3.0]})
    assert trajectory(history) == [
        {"matrix": "q", "epoch": 0, "alpha": 1.0, "B_norm": 0.0},
        {"matrix": "q", "epoch": 1, "alpha": 1.5, "B_norm": 2.0},
        {"matrix": "v", "epoch": 0, "B_norm": 0.0},
        {"matrix": "v", "epoch": 1, "B_norm": 3.0},
    ]


def test_late_growth_looks_at_the_last_quarter_of_the_epochs():
    assert late_growth([0, 5, 5, 5, 5, 5, 10.0, 11.0, 12.0]) == pytest.approx(0.2)
    assert late_growth([0, 1, 1, 1, 4.0, 3.0]) == pytest.approx(0.25)
    for bad in ([], [1.0], [0.0, 1.0]):
        with pytest.raises(InputError, match="have no growth at the end"):
            late_growth(bad)


def test_the_rise_of_the_validation_loss_is_from_its_lowest():
    assert validation_rise([2.0, 1.0, 0.5, 0.6]) == pytest.approx(0.2)
    assert validation_rise([2.0, 1.0, 0.5]) == 0
    with pytest.raises(InputError, match="have no course"):
        validation_rise([1.0])


# --- distribution --------------------------------------------------------------------------------


@pytest.mark.slow
def test_moments_of_known_distributions_and_the_caveat_of_the_test():
    normal = describe(3 + 2 * rng().standard_normal((200, 200)))
    assert (normal.n, normal.mean, normal.std) == (40_000, pytest.approx(3, abs=0.03), pytest.approx(2, abs=0.03))
    assert abs(normal.skewness) < 0.05
    assert abs(normal.excess_kurtosis) < 0.1
    assert normal.p_normal > 0.01
    uniform, laplace = describe(rng().uniform(size=40_000)), describe(rng().laplace(size=40_000))
    assert uniform.excess_kurtosis == pytest.approx(-1.2, abs=0.05)
    assert laplace.excess_kurtosis == pytest.approx(3, abs=0.4)
    assert describe(rng().exponential(size=40_000)).skewness == pytest.approx(2, abs=0.2)
    # the same shape, nearly normal: mostly not rejected on few entries, always on many
    mild = rng(1).standard_t(12, size=64_000)
    assert np.mean([describe(few).p_normal < 0.05 for few in mild.reshape(-1, 64)]) < 0.3
    assert describe(mild).p_normal < 1e-6


def test_the_histogram_and_its_fit_integrate_to_one():
    found = histogram(5 + 0.3 * rng().standard_normal(5_000), bins=40)
    widths = np.diff(found.edges)
    assert (found.density * widths).sum() == pytest.approx(1)
    assert (found.normal * widths).sum() == pytest.approx(1, abs=0.01)
    assert np.abs(found.density - found.normal).max() < 0.08 / 0.3


@pytest.mark.parametrize("values", [np.zeros(50), np.arange(19.0), np.array([])])
def test_too_few_or_equal_values_have_no_distribution(values):
    for function in (describe, histogram):
        with pytest.raises(InputError, match="expected at least 20, not all equal"):
            function(values)


# --- spectra -------------------------------------------------------------------------------------


def test_eigenvalues_of_a_constructed_matrix():
    Q = orthogonal(4, 4)
    symmetric = Q @ np.diag([3.0, -5.0, 0.5, 1.0]) @ Q.T
    np.testing.assert_allclose(eigenvalues(symmetric), [-5, 3, 1, 0.5], atol=1e-12)
    np.testing.assert_allclose(np.abs(eigenvalues(np.array([[0.0, -2.0], [2.0, 0.0]]))), [2, 2])
    with pytest.raises(ShapeError, match=r"\(2, 3\) has no eigenvalues"):
        eigenvalues(np.ones((2, 3)))


def test_singular_values_and_the_effective_rank():
    U, V = orthogonal(7, 3), orthogonal(5, 3, 1)
    np.testing.assert_allclose(singular_values(U @ np.diag([4.0, 2.0, 1.0]) @ V.T), [4, 2, 1, 0, 0], atol=1e-12)
    assert effective_rank(U @ V.T) == pytest.approx(3)
    assert effective_rank(np.outer(np.arange(1, 4.0), np.arange(1, 5.0))) == pytest.approx(1)
    p = np.array([2 / 3, 1 / 3])
    assert effective_rank(np.diag([2.0, 1.0])) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    with pytest.raises(InputError, match="zero matrix"):
        effective_rank(np.zeros((2, 3)))


def test_the_spectral_distance_is_between_real_parts_in_order():
    a, b = np.diag([3.0, -1.0]), np.diag([0.5, 2.0])
    assert spectral_distance(real_parts(a), real_parts(b)) == pytest.approx((1 + 1.5) / 2)
    assert spectral_distance(real_parts(a), real_parts(a)) == 0
    # the imaginary part does not count: eigenvalues 1 +- 2i, and 1 twice
    assert spectral_distance(real_parts(np.array([[1.0, -2.0], [2.0, 1.0]])), np.ones(2)) == pytest.approx(0, abs=1e-12)
    Q = orthogonal(2, 2)
    assert spectral_distance(real_parts(Q @ a @ Q.T), real_parts(a)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ShapeError, match="expected equal ones"):
        spectral_distance(real_parts(a), np.ones(3))


def test_the_share_of_positive_real_parts():
    assert positive_share(real_parts(np.diag([1.0, -2.0, 3.0, 4.0]))) == 0.75
    assert positive_share(real_parts(np.array([[-1.0, -2.0], [2.0, -1.0]]))) == 0


# --- similarity ----------------------------------------------------------------------------------

FINITE = arrays(np.float64, (3, 4), elements=st.floats(-10, 10))


@given(FINITE, FINITE, st.floats(0.1, 10))
def test_the_cosine_is_symmetric_bounded_and_blind_to_scale(a, b, c):
    if np.linalg.norm(a) < 1e-3 or np.linalg.norm(b) < 1e-3:
        return
    assert cosine(a, b) == pytest.approx(cosine(b, a), abs=1e-12)
    assert abs(cosine(a, b)) <= 1 + 1e-12
    assert cosine(c * a, b) == pytest.approx(cosine(a, b), abs=1e-9)
    assert cosine(a, -a) == pytest.approx(-1)


def test_cosine_and_relative_difference_of_known_matrices():
    a, b = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    assert cosine(a, b) == pytest.approx(0.5)
    assert relative_difference(3 * a, a) == pytest.approx(2)
    for function in (cosine, relative_difference):
        with pytest.raises(ShapeError):
            function(a, np.eye(3))
        with pytest.raises(InputError, match="zero"):
            function(a, 0 * a)


def test_principal_angles_between_constructed_subspaces():
    basis, V = orthogonal(6, 4), orthogonal(5, 2, 1)
    theta = 0.3
    # the first direction is shared, the second turned by theta towards a new one
    turned = np.stack([basis[:, 0], np.cos(theta) * basis[:, 1] + np.sin(theta) * basis[:, 2]], axis=1)
    one, other = basis[:, :2] @ np.diag([3.0, 1.0]) @ V.T, turned @ np.diag([2.0, 5.0]) @ V.T
    angles = principal_angles(one, other, 2)
    np.testing.assert_allclose(angles, [theta, 0], atol=1e-7)
    assert overlap(angles) == pytest.approx((1 + np.cos(theta) ** 2) / 2)
    np.testing.assert_allclose(principal_angles(one.T, other.T, 2), [0, 0], atol=1e-7)
    for rank in (0, 6):
        with pytest.raises(InputError, match=f"rank is {rank}, expected 1 to 5"):
            principal_angles(one, other, rank)


def test_random_subspaces_overlap_by_rank_over_dimension():
    found = [
        overlap(principal_angles(*(rng(2 * s + i).standard_normal((12, 12)) for i in (0, 1)), 4)) for s in range(60)
    ]
    assert np.mean(found) == pytest.approx(4 / 12, abs=0.03)


def test_unrelated_updates_have_the_norm_and_nothing_else_in_common():
    D = rng().standard_normal((40, 30))
    controls = [unrelated(D, s, "x") for s in range(40)]
    for control in controls:
        assert np.linalg.norm(control) == pytest.approx(np.linalg.norm(D))
    assert abs(np.mean([cosine(D, control) for control in controls])) < 0.02
    assert not np.array_equal(unrelated(D, 0, "x"), unrelated(D, 0, "y"))


@pytest.mark.parametrize("rho", [0.05, 0.5, 2.0])
def test_the_cosine_of_adapted_matrices_with_unrelated_updates_is_the_formulas(rho):
    W0 = rng().standard_normal((200, 150))
    one, other = (rho * f * unrelated(W0, s, "x") for s, f in ((1, 1.0), (2, 0.5)))
    assert cosine(W0 + one, W0 + other) == pytest.approx(unrelated_cosine(rho, 0.5 * rho), abs=0.02)
    assert unrelated_cosine(0, 0) == 1


# --- the subspace --------------------------------------------------------------------------------


def test_the_captured_share_of_constructed_targets():
    A, C = rng(1).standard_normal((9, 3)), rng(2).standard_normal((3, 7))
    inside = A @ rng(3).standard_normal((3, 3)) @ C
    assert captured_share(inside, A, C) == pytest.approx(1)
    left = np.linalg.qr(np.c_[A, rng(4).standard_normal((9, 6))])[0][:, 3:]
    outside = left @ rng(5).standard_normal((6, 3)) @ C
    assert captured_share(outside, A, C) == pytest.approx(0, abs=1e-12)
    both = inside / np.linalg.norm(inside) + 2 * outside / np.linalg.norm(outside)
    assert captured_share(both, A, C) == pytest.approx(1 / 5)
    with pytest.raises(InputError, match="target update is zero"):
        captured_share(np.zeros((9, 7)), A, C)
    with pytest.raises(ShapeError, match="captured_share"):
        captured_share(inside.T, A, C)


def test_the_captured_share_is_the_best_any_core_can_do():
    D, A, C = (rng(s).standard_normal(shape) for s, shape in ((1, (6, 5)), (2, (6, 2)), (3, (2, 5))))
    # least squares for vec(M) in D = A M C
    basis = np.stack([np.outer(A[:, i], C[j]).ravel() for i in range(2) for j in range(2)], axis=1)
    rest = D.ravel() - basis @ np.linalg.lstsq(basis, D.ravel(), rcond=None)[0]
    assert captured_share(D, A, C) == pytest.approx(1 - (rest**2).sum() / (D**2).sum())


UPDATES = {
    "rank 1": np.outer(rng(3).standard_normal(32), rng(4).standard_normal(32)),
    "decaying": np.diag(0.8 ** np.arange(32)),
    "identity": np.eye(32),
}


@pytest.mark.parametrize("name", UPDATES)
def test_the_theorems_of_the_share_hold_for_any_fixed_update(name):
    D = UPDATES[name]
    squares = np.linalg.svd(D, compute_uv=False) ** 2
    spread = share_std(32, 32, 16, (squares**2).sum() / squares.sum() ** 2)
    r, draws = rng(5), 2_000
    shares = [captured_share(D, r.standard_normal((32, 16)), r.standard_normal((16, 32))) for _ in range(draws)]
    assert np.mean(shares) == pytest.approx(isotropic_share(32, 32, 16), abs=4 * spread / np.sqrt(draws))
    assert np.std(shares) == pytest.approx(spread, rel=0.1)


def test_the_theorem_needs_factors_without_a_preferred_direction():
    # A that always spans the first axes holds all of an update that lives there
    D, r = np.zeros((12, 10)), rng(6)
    D[:4, :3] = 1
    A, C = np.eye(12, 4), [r.standard_normal((3, 10)) for _ in range(400)]
    assert np.mean([captured_share(D, A[:, :3], c) for c in C]) > 2 * isotropic_share(12, 10, 3)
    rectangular = [captured_share(D, r.standard_normal((12, 3)), c) for c in C]
    assert np.mean(rectangular) == pytest.approx(isotropic_share(12, 10, 3), abs=4 * np.std(rectangular) / 20)


def test_lora_can_hold_more_than_any_fixed_subspace():
    A, C = rng(1).standard_normal((12, 4)), rng(2).standard_normal((4, 10))
    targets = [rng(s).standard_normal((12, 10)) for s in range(50)]
    assert isotropic_share(12, 10, 4) == pytest.approx(16 / 120)
    assert all(best_share(D, 4) > captured_share(D, A, C) for D in targets)
    assert best_share(np.diag([2.0, 1.0, 0.0]), 1) == pytest.approx(4 / 5)
    assert best_share(targets[0], 10) == pytest.approx(1)


# --- the conserved quantity ----------------------------------------------------------------------


def test_conserved_is_alpha_squared_minus_the_squared_norm():
    assert conserved(3.0, np.array([[1.0, 2.0], [0.0, 1.0]])) == pytest.approx(9 - 6)
    for optimizer in OPTIMIZERS:
        found = descend(optimizer, 1e-3, 5)
        assert len(found) == 6
        assert found[0] == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_small_steps_conserve_it_under_gradient_descent_and_momentum_but_not_under_adamw(seed):
    found = {optimizer: [drift(optimizer, lr, 0.5, seed) for lr in (2e-3, 1e-3, 5e-4)] for optimizer in OPTIMIZERS}
    for optimizer in ("gd", "momentum"):
        ratios = np.divide(found[optimizer][:-1], found[optimizer][1:])
        assert ((ratios > 1.8) & (ratios < 2.4)).all(), optimizer
    assert found["gd"][-1] < 0.01
    assert min(found["adamw"]) > 10 * found["gd"][0]
    assert found["adamw"][0] / found["adamw"][-1] < 1.8


def test_the_first_steps_and_the_drift_of_momentum_are_those_derived():
    # B = 0: dalpha = 0, and AdamW moves every entry of the 4 x 4 B by lr
    assert descend("adamw", 1e-2, 1)[1] == pytest.approx(1 - 16 * 1e-2**2, rel=1e-6)
    one, tenth = descend("gd", 1e-2, 1)[1], descend("momentum", 1e-1, 1)[1]
    assert one < 1
    assert tenth == pytest.approx(one, rel=1e-12)
    for seed in (0, 1):
        ratio = drift("momentum", 2.5e-4, 0.3, seed) / drift("gd", 2.5e-4, 0.3, seed)
        assert ratio == pytest.approx((1 + MOMENTUM) / (1 - MOMENTUM), rel=0.05)


@pytest.mark.parametrize(
    ("args", "message"), [(("sgd", 0.1, 3), "optimizer is 'sgd'"), (("gd", 0, 3), "lr"), (("gd", 0.1, 0), "steps")]
)
def test_descend_says_what_it_cannot_use(args, message):
    with pytest.raises(InputError, match=message):
        descend(*args)


# --- seeds ---------------------------------------------------------------------------------------


def test_the_interval_of_a_mean():
    found = mean_interval([2.0, 2.0, 2.0])
    assert (found.mean, found.low, found.high) == (2, 2, 2)
    # t(3) = 3.1824 at 97.5 %, standard deviation sqrt(5 / 3)
    found = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.1824 * np.sqrt(5 / 3) / 2
    assert (found.mean, found.low, found.high) == (
        2.5,
        pytest.approx(2.5 - half, abs=1e-4),
        pytest.approx(2.5 + half, abs=1e-4),
    )
    with pytest.raises(InputError, match="no values, expected at least one"):
        mean_interval([])


def test_p_is_that_of_students_test():
    from scipy import stats

    values = list(rng(8).standard_normal(7) + 0.4)
    for bound in (-0.3, 0.0, 1.2):
        assert p_above(values, bound) == pytest.approx(stats.ttest_1samp(values, bound, alternative="greater").pvalue)
    assert (p_above(values, -np.inf), p_above(values, np.inf)) == (0, 1)
    # without a spread: so many coins on one side
    assert (p_above([2.0] * 5, 1), p_above([2.0] * 5, 2), p_above([2.0] * 5, 3)) == (1 / 32, 1, 1)
    with pytest.raises(InputError, match="1 values, expected at least two"):
        p_above([1.0], 0)


def test_holms_correction():
    # 0.01 * 4 = 0.04, then 0.02 * 3 = 0.06, then 0.022 * 2 = 0.044, which may not fall below 0.06, then 0.5
    found = holm({"a": 0.5, "b": 0.01, "c": 0.022, "d": 0.02})
    assert found == {"a": 0.5, "b": 0.04, "c": pytest.approx(0.06), "d": pytest.approx(0.06)}
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1, "b": 1}
    assert holm({}) == {}


def test_a_pattern_over_columns_is_found_and_noise_is_not():
    pattern = np.array([0.0, 1.0, 2.0, 3.0])
    with_pattern = [pattern + 0.3 * rng(s).standard_normal((6, 4)) for s in (1, 2)]
    assert column_effect(with_pattern) < 0.01
    # rows that differ, whatever their level, are no pattern over columns; under the null p is uniform
    p = [column_effect([rng(s).standard_normal((6, 1)) + rng(s + 50).standard_normal((6, 4))], 200) for s in range(60)]
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) < 0.05) < 0.15
    assert column_effect([np.ones((3, 2))]) == 1
    for bad in ([], [np.ones((3, 1))], [np.ones(3)]):
        with pytest.raises(InputError, match="expected"):
            column_effect(bad)


# --- what the audit needs besides ----------------------------------------------------------------


def test_the_last_quarter_of_a_linear_decay_is_about_a_sixteenth():
    assert schedule_share(100) == pytest.approx(1 / 16 / (1 - 0.03), rel=0.1)


def test_on_square_matrices_both_draws_of_a_and_c_make_the_same_update():
    base = init_encoder(ENCODER, dtype=np.float64)
    config = AdapterConfig(rank=3, targets=("query", "ffn_in"))
    models = {rule: attach(base, replace(config, init=rule)) for rule in ("released", "fan_in")}

    def dW(rule, name):
        model = models[rule]
        core = rng(3).standard_normal((3, 3))
        return update(model.with_params({f"{name}.B": core}), base, name)

    np.testing.assert_allclose(dW("released", "layers.0.query"), dW("fan_in", "layers.0.query"), rtol=1e-12)
    # elsewhere the effective step is sqrt(I / O) times as large
    ratio = dW("released", "layers.0.ffn_in") / dW("fan_in", "layers.0.ffn_in")
    np.testing.assert_allclose(ratio, np.sqrt(8 / 12), rtol=1e-12)

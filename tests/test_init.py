"""The draws: their scale under both fan-in rules, their independence, their reproducibility."""

import numpy as np
import pytest

from tlora_ref import AdapterConfig, EncoderConfig, attach, init_encoder
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.by_hand.methods.lora import lora_draw
from tlora_ref.by_hand.methods.tlora import factor_stds, tlora_draw
from tlora_ref.draws import stream
from tlora_ref.methods import Site


@pytest.mark.parametrize(
    ("rule", "stds"),
    [
        ("released", (1 / np.sqrt(3 * 32), 1 / np.sqrt(3 * 1024))),
        ("fan_in", (1 / np.sqrt(3 * 512), 1 / np.sqrt(3 * 32))),
    ],
)
def test_the_standard_deviations_of_both_fan_in_rules(rule, stds):
    arrays = tlora_draw(Site("m", 512, 1024, 32), np.zeros((512, 1024)), AdapterConfig(rank=32, init=rule))
    assert factor_stds(rule, 512, 1024, 32) == pytest.approx(stds)
    for name, std in zip("AC", stds, strict=True):
        # the standard deviation of n normal draws is known to std / sqrt(2 n)
        assert abs(arrays[name].std() - std) < 5 * std / np.sqrt(2 * arrays[name].size)
    assert not arrays["B"].any()
    assert arrays["alpha"] == 1


def test_the_released_rule_at_the_papers_size():
    """std(A) = 0.1021 and std(C) = 0.0180 at r = 32, d = 1024."""
    assert factor_stds("released", 1024, 1024, 32) == pytest.approx((0.1021, 0.0180), abs=5e-5)


def test_torchs_kaiming_normal_on_the_released_shapes_gives_the_same_scale():
    import torch

    torch.manual_seed(0)
    for shape, std in (((512, 32), 1 / np.sqrt(96)), ((32, 1024), 1 / np.sqrt(3 * 1024))):
        drawn = torch.nn.init.kaiming_normal_(torch.empty(shape, dtype=torch.float64), a=5**0.5)
        assert abs(float(drawn.std()) - std) < 5 * std / np.sqrt(2 * drawn.numel())


def test_lora_starts_uniform_in_one_over_sqrt_fan_in():
    arrays = lora_draw(Site("m", 400, 30, 8), np.zeros((400, 30)), AdapterConfig("lora", rank=8))
    assert np.abs(arrays["A"]).max() <= 0.05
    assert np.abs(arrays["A"]).max() > 0.0499
    assert abs(arrays["A"].std() - 0.05 / np.sqrt(3)) < 1e-3
    assert not arrays["B"].any()


def test_each_array_has_a_stream_of_its_own():
    """The draw of one matrix does not depend on which others are adapted."""
    base = init_encoder(EncoderConfig(features=3))
    few = attach(base, AdapterConfig(rank=2, targets=("value",), layers=(1,)))
    many = attach(base, AdapterConfig(rank=2, targets=("ffn_in", "value", "query")))
    np.testing.assert_array_equal(few.params["layers.1.value.A"], many.params["layers.1.value.A"])
    assert (many.params["layers.1.value.A"] != many.params["layers.1.query.A"]).all()
    assert (many.params["layers.1.value.A"] != many.params["layers.0.value.A"]).all()


def test_seeds_decide_everything():
    config = EncoderConfig(features=3)
    one, same, other = (init_encoder(config, seed) for seed in (1, 1, 2))
    for name, array in one.params.items():
        np.testing.assert_array_equal(array, same.params[name])
        constant = name.endswith((".b", ".gamma", ".beta"))
        assert constant == bool((array == other.params[name]).all()), name
    a, b = (attach(one, AdapterConfig(seed=s)).params["layers.0.query.A"] for s in (1, 2))
    assert (a != b).all()
    assert stream(0, "a").random() != stream(0, "b").random()


def test_the_stream_of_a_name_is_pinned():
    """Adapter files that keep only a seed rely on these very numbers."""
    np.testing.assert_allclose(
        stream(0, "layers.0.query.A").standard_normal(3),
        [1.067045331846718, 1.2867003035103317, 0.17386841762149804],
        rtol=0,
        atol=0,
    )


def drawn(kind, base, shape, spread):
    generator = stream(3, f"m.{base}")
    return spread * generator.standard_normal(shape) if kind == "normal" else generator.uniform(-spread, spread, shape)


I, O, R = 9, 6, 4
LORA = {"A": drawn("uniform", "A", (I, R), 1 / 3), "B": np.zeros((R, O))}
C, D = (drawn("uniform", base, (R, R), 1 / 2) for base in "CD")
BOTTLENECK = {
    "down": drawn("normal", "down", (O, R), 0.02),
    "down_b": np.zeros(R),
    "up": drawn("normal", "up", (R, O), 0.02),
    "up_b": np.zeros(O),
}
STARTS = {
    "tlora": {
        "A": drawn("normal", "A", (I, R), 1 / np.sqrt(3 * R)),
        "B": np.zeros((R, R)),
        "C": drawn("normal", "C", (R, O), 1 / np.sqrt(3 * O)),
        "alpha": np.ones(()),
    },
    "lora": LORA,
    "lora_fa": LORA,
    "lora_gated": LORA | {"logit": np.zeros(())},
    "dora": LORA,
    "dora_full": LORA,
    "vera": {"lambda_d": np.full(R, 0.1), "lambda_b": np.zeros(O)},
    "lora_xs": {"M": drawn("normal", "M", (R, R), 1e-5)},
    "edora": {"M": drawn("normal", "M", (R, R), 1e-5)},
    "mtlora_shim": LORA | {"C": C},
    "mtlora_icfm": LORA | {"C": C},
    "mtlora_ctcm": LORA | {"C": C, "D": D},
    "mtlora_dtsm": LORA | {"C": C, "D": D},
    "adapter_h": BOTTLENECK,
    "adapter_p": BOTTLENECK,
}
"""What each page says of its start, apart from what follows from W0."""


@pytest.mark.parametrize("method", STARTS)
def test_a_method_starts_as_its_page_says(method):
    """The scale and the stream of every array: a file that keeps only a seed relies on both."""
    W0 = np.random.default_rng(0).standard_normal((I, O))
    found = METHODS[method].draw(Site("m", I, O, R), W0, AdapterConfig(method, rank=R, seed=3))
    from_W0 = {"magnitude"} | ({"A", "C"} if method in ("lora_xs", "edora") else set())
    assert set(found) - from_W0 == set(STARTS[method])
    for base, expected in STARTS[method].items():
        np.testing.assert_allclose(found[base], expected, rtol=1e-15, atol=0, err_msg=base)
    if "magnitude" in found:
        np.testing.assert_allclose(found["magnitude"], np.linalg.norm(W0, axis=0), rtol=1e-14)


def test_the_largest_entry_of_a_singular_vector_is_positive_and_float32_weights_are_decomposed_in_float64():
    W0 = np.random.default_rng(0).standard_normal((I, O)).astype(np.float32)
    drawn = METHODS["lora_xs"].draw(Site("m", I, O, R), W0, AdapterConfig("lora_xs", rank=R))
    A, C = drawn["A"], drawn["C"]
    assert (A[np.abs(A).argmax(axis=0), np.arange(R)] > 0).all()
    assert A.dtype == C.dtype == np.float64
    U, S, Vt = np.linalg.svd(W0.astype(float))
    np.testing.assert_allclose(A @ C, (U[:, :R] * S[:R]) @ Vt[:R], rtol=0, atol=1e-13)

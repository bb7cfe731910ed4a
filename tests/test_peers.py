"""The same numbers in the field's own layers: Hugging Face PEFT's LoRA, DoRA and VeRA, and loralib's LoRA.

With the same weights, outputs and all gradients agree in float64 with the kernels by hand.
"""

import warnings

import loralib
import numpy as np
import peft
import pytest
import torch
from torch import nn

from tlora_ref.by_hand.methods import dora, lora, vera

N, I, O, R, SCALE = 6, 7, 5, 3, 2.0


class One(nn.Module):
    """A model of a single linear layer."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(I, O, dtype=torch.float64)

    def forward(self, x):
        return self.lin(x)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def numbers(seed=0):
    r = np.random.default_rng(seed)
    shapes = {
        "x": (N, I),
        "W0": (I, O),
        "b": (O,),
        "A": (I, R),
        "B": (R, O),
        "d": (R,),
        "e": (O,),
        "m": (O,),
        "dy": (N, O),
    }
    return {name: r.standard_normal(shape) for name, shape in shapes.items()}


def peft_layer(config, given):
    """The adapted layer of a PeftModel, its base weights set."""
    base = One()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own deprecations
        layer = peft.get_peft_model(base, config).base_model.model.lin
    with torch.no_grad():
        layer.base_layer.weight.copy_(tensor(given["W0"].T))
        layer.base_layer.bias.copy_(tensor(given["b"]))
    return layer.double()


def run(layer, given, parameters):
    """Output, and the gradients of x and of the named parameters, as (in, out) arrays."""
    x = tensor(given["x"]).requires_grad_()
    y = layer(x)
    y.backward(tensor(given["dy"]))
    grads = {name: p.grad.numpy().T for name, p in parameters.items()}
    return y.detach().numpy(), {"x": x.grad.numpy(), **grads}


def assert_equal(mine, theirs):
    y, grads = mine
    y_peer, grads_peer = theirs
    np.testing.assert_allclose(y, y_peer, rtol=0, atol=1e-12 * np.abs(y).max())
    assert set(grads) == set(grads_peer)
    for name, value in grads.items():
        np.testing.assert_allclose(value, grads_peer[name], rtol=0, atol=1e-12 * np.abs(value).max(), err_msg=name)


def by_hand(fwd, bwd, given, *args, **kwargs):
    y, cache = fwd(given["x"], given["W0"], given["b"], *args, **kwargs)
    return y, bwd(given["dy"], cache)


def test_lora_is_pefts():
    given = numbers()
    config = peft.LoraConfig(r=R, lora_alpha=SCALE * R, lora_dropout=0.0, target_modules=["lin"])
    layer = peft_layer(config, given)
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        A.copy_(tensor(given["A"].T))
        B.copy_(tensor(given["B"].T))
    mine = by_hand(lora.lora_linear_fwd, lora.lora_linear_bwd, given, given["A"], given["B"], SCALE)
    assert_equal(mine, run(layer, given, {"A": A, "B": B}))


def test_lora_is_loralibs():
    given = numbers()
    layer = loralib.Linear(I, O, r=R, lora_alpha=SCALE * R, merge_weights=False).double()
    with torch.no_grad():
        layer.weight.copy_(tensor(given["W0"].T))
        layer.bias.copy_(tensor(given["b"]))
        layer.lora_A.copy_(tensor(given["A"].T))
        layer.lora_B.copy_(tensor(given["B"].T))
    mine = by_hand(lora.lora_linear_fwd, lora.lora_linear_bwd, given, given["A"], given["B"], SCALE)
    assert_equal(mine, run(layer, given, {"A": layer.lora_A, "B": layer.lora_B}))


def test_dora_with_the_norm_detached_is_pefts():
    given = numbers()
    config = peft.LoraConfig(r=R, lora_alpha=SCALE * R, lora_dropout=0.0, target_modules=["lin"], use_dora=True)
    layer = peft_layer(config, given)
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    magnitude = layer.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        A.copy_(tensor(given["A"].T))
        B.copy_(tensor(given["B"].T))
        magnitude.copy_(tensor(given["m"]))
    norm = dora.dora_constants(given["W0"], given["A"], given["B"], given["m"], SCALE)["norm_O"]
    args = given["A"], given["B"], given["m"], SCALE, norm
    mine = by_hand(dora.dora_linear_fwd, dora.dora_linear_bwd, given, *args)
    assert_equal(mine, run(layer, given, {"A": A, "B": B, "magnitude": magnitude}))
    full = by_hand(dora.dora_linear_fwd, dora.dora_linear_bwd, given, *args[:-1])
    assert np.abs(full[1]["B"] - mine[1]["B"]).max() > 1e-3


def test_doras_merged_weight_is_pefts():
    given = numbers()
    config = peft.LoraConfig(r=R, lora_alpha=SCALE * R, lora_dropout=0.0, target_modules=["lin"], use_dora=True)
    layer = peft_layer(config, given)
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(tensor(given["A"].T))
        layer.lora_B["default"].weight.copy_(tensor(given["B"].T))
        layer.lora_magnitude_vector["default"].weight.copy_(tensor(given["m"]))
    layer.merge()
    mine = given["W0"] + dora.dora_delta_w(given["W0"], given["A"], given["B"], given["m"], SCALE)
    np.testing.assert_allclose(layer.base_layer.weight.detach().numpy().T, mine, rtol=0, atol=1e-12)


def test_vera_is_pefts():
    given = numbers()
    layer = peft_layer(peft.VeraConfig(r=R, target_modules=["lin"], vera_dropout=0.0), given)
    d, e = layer.vera_lambda_d["default"], layer.vera_lambda_b["default"]
    with torch.no_grad():
        layer.vera_A["default"] = tensor(given["A"].T)
        layer.vera_B["default"] = tensor(given["B"].T)
        d.copy_(tensor(given["d"]))
        e.copy_(tensor(given["e"]))
    args = given["A"], given["B"], given["d"], given["e"]
    mine = by_hand(vera.vera_linear_fwd, vera.vera_linear_bwd, given, *args)
    assert_equal(mine, run(layer, given, {"lambda_d": d, "lambda_b": e}))


def test_pefts_lora_starts_in_the_interval_ours_does():
    """A uniform in +-1 / sqrt(I), B = 0."""
    layer = peft_layer(peft.LoraConfig(r=R, target_modules=["lin"]), numbers())
    A = layer.lora_A["default"].weight.detach()
    assert float(A.abs().max()) <= 1 / np.sqrt(I)
    assert float(A.abs().max()) > 0.8 / np.sqrt(I)
    assert not layer.lora_B["default"].weight.any()


@pytest.mark.parametrize("seed", [1, 2])
def test_another_set_of_numbers_would_not_pass(seed):
    """The comparison can fail: other numbers on one side are seen."""
    one, other = numbers(seed), numbers(seed + 10)
    mine, theirs = (by_hand(lora.lora_linear_fwd, lora.lora_linear_bwd, g, g["A"], g["B"], SCALE) for g in (one, other))
    with pytest.raises(AssertionError):
        assert_equal(mine, theirs)

"""What autograd keeps from the forward of an adapted matrix, and the FLOPs it takes: measured, against counts.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tlora_ref import AdapterConfig, EncoderConfig
from tlora_ref.by_autograd import KERNEL_TWINS
from tlora_ref.by_hand import encoder_fwd
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.counts import (
    ACTIVATIONS,
    activations,
    backward_flops,
    encoder_activations,
    forward_flops,
    textbook_activations,
)
from tlora_ref.init import attach, init_encoder
from tlora_ref.lab.bench.memory import cached_bytes, kept_bytes

every_method = pytest.mark.parametrize("method", [METHODS[name] for name in ACTIVATIONS], ids=list(ACTIVATIONS))


def layer(method, lead, I, O, R, dropout, dtype=torch.float32, x_grad=True):
    """The arguments of one adapted matrix as they stand inside a model, by name."""
    rng = torch.Generator().manual_seed(0)
    size = {"I": (I,), "O": (O,), "R": (R,), "S": (R,), "N": lead}
    args = {}
    for arg in method.kernel.args:
        shape = sum((size[letter] for letter in arg.letters), ())
        if arg.base == "scale":
            args[arg.name] = 0.5
        elif arg.kind == "keep":
            mask = (torch.rand(shape, generator=rng) >= 0.25).to(dtype) / 0.75
            args[arg.name] = mask if dropout else None
        else:
            t = torch.randn(shape, generator=rng, dtype=dtype)
            args[arg.name] = t.requires_grad_(arg in method.trained_args or (arg.base == "x" and x_grad))
    return args


def weights(method):
    return [a.name for a in method.kernel.args if a.kind == "real" and a.base not in ("x", "scale")]


def kept(call, args, method):
    return kept_bytes(lambda: call(**args), [args[name] for name in weights(method)])


def textbook(x_NI, W0_IO, b_O, A_IR, B_RS, C_SO, alpha, keep_NO=None):
    """TLoRA in the order in which the paper writes it."""
    update_NO = alpha * (x_NI @ A_IR @ B_RS @ C_SO)
    return x_NI @ W0_IO + b_O + (update_NO if keep_NO is None else keep_NO * update_NO)


shapes = st.tuples(st.sampled_from([(5,), (1,), (2, 3)]), *[st.integers(2, 9)] * 2, st.integers(1, 4))


@every_method
@settings(max_examples=25)
@given(shape=shapes, dropout=st.booleans(), x_grad=st.booleans(), double=st.booleans())
def test_what_autograd_keeps_is_the_closed_form(method, shape, dropout, x_grad, double):
    lead, I, O, R = shape
    args = layer(method, lead, I, O, R, dropout, torch.float64 if double else torch.float32, x_grad)
    expected = activations(method.name, math.prod(lead), I, O, R, dropout, x_grad)
    assert kept(KERNEL_TWINS[method.kernel.name], args, method) == expected * (8 if double else 4)


@every_method
@pytest.mark.parametrize("dropout", [False, True])
def test_by_hands_cache_holds_the_same_less_alpha_B(method, dropout):
    args = {k: v.detach().numpy() if isinstance(v, torch.Tensor) else v
            for k, v in layer(method, (2, 3), 5, 7, 4, dropout).items()}  # fmt: skip
    _, cache = method.kernel.fwd(**args)
    apart = {id(args[name]) for name in weights(method)}
    numbers = sum(a.size for a in cache if isinstance(a, np.ndarray) and id(a) not in apart)
    assert numbers == activations(method.name, 6, 5, 7, 4, dropout) - (16 if method.name == "tlora" else 0)


@settings(max_examples=15)
@given(shape=shapes, dropout=st.booleans())
def test_the_textbook_order_keeps_the_update_too(shape, dropout):
    lead, I, O, R = shape
    method = METHODS["tlora"]
    args = layer(method, lead, I, O, R, dropout, torch.float64)
    found = kept(textbook, args, method)
    assert found == 8 * textbook_activations(math.prod(lead), O, R, dropout)
    torch.testing.assert_close(KERNEL_TWINS[method.kernel.name](**args), textbook(**args), rtol=0, atol=1e-11)


def test_at_width_1024_4096_rows_and_rank_32_it_is_516_kib_instead_of_16896():
    method, size = METHODS["tlora"], (1024, 1024, 32)
    args = layer(method, (4096,), *size, dropout=False)
    ours = kept(KERNEL_TWINS[method.kernel.name], args, method)
    theirs = kept(textbook, args, method)
    assert (ours, theirs) == (4 * activations("tlora", 4096, *size), 4 * textbook_activations(4096, 1024, 32))
    assert (ours / 1024, theirs / 1024) == (516, 16_896)
    lora = METHODS["lora"]
    found = kept(KERNEL_TWINS[lora.kernel.name], layer(lora, (4096,), *size, dropout=False), lora)
    assert found / 1024 == 4 * activations("lora", 4096, *size) / 1024 == 16_896


@every_method
@settings(max_examples=25)
@given(shape=shapes, dropout=st.booleans(), x_grad=st.booleans())
def test_flops_are_the_closed_form(method, shape, dropout, x_grad):
    lead, I, O, R = shape
    args = layer(method, lead, I, O, R, dropout, x_grad=x_grad)
    with FlopCounterMode(display=False) as forward:
        out = KERNEL_TWINS[method.kernel.name](**args)
    with FlopCounterMode(display=False) as backward:
        out.backward(torch.ones_like(out))
    rows = math.prod(lead)
    assert forward.get_total_flops() == forward_flops(method.name, rows, I, O, R)
    assert backward.get_total_flops() == backward_flops(method.name, rows, I, O, R, x_grad)


@every_method
@pytest.mark.parametrize("pool", ["mean", "first", "pooler"])
@pytest.mark.parametrize("targets", [("query", "value"), ("key",), ("query", "key", "value", "output", "ffn_out")])
@pytest.mark.parametrize("layers", [None, (1,), (1, 2)])
def test_what_the_encoder_by_hand_keeps_is_the_closed_form(method, pool, targets, layers):
    config = EncoderConfig(width=12, layers=3, heads=3, hidden=20, time=7, features=5,
                           pool="mean" if pool == "mean" else "first", pooler=pool == "pooler")  # fmt: skip
    adapter = AdapterConfig(method.name, rank=4, targets=targets, layers=layers)
    model = attach(init_encoder(config), adapter)
    x = np.random.default_rng(0).standard_normal((6, 7, 5)).astype(np.float32)
    _, cache = encoder_fwd(model, x)
    assert cached_bytes(cache, model.params.values()) == 4 * encoder_activations(config, adapter, 6, 7)

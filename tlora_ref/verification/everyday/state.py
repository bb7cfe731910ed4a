"""What goes wrong between the calls: caches, buffers, arguments changed, randomness, precision, layout."""

from __future__ import annotations

import numpy as np

from .subject import normal, stateful, subject

X, W = normal(4, 3), normal(3, 2)
INPUTS = {"x": X, "w": W}


def _layer(x, w):
    return np.tanh(x @ w)


def _grads(d, x, w):
    dz = d * (1 - np.tanh(x @ w) ** 2)
    return {"x": dz @ w.T, "w": x.T @ dz}


def cached():
    """The cache is what the forward was given."""
    return lambda x, w: (_layer(x, w), (x, w)), lambda d, cache: _grads(d, *cache)


def copied():
    """The cache is a copy."""
    return lambda x, w: (_layer(x, w), (x.copy(), w.copy())), lambda d, cache: _grads(d, *cache)


def output_cached():
    """The output is kept for the backward."""

    def fn(x, w):
        y = _layer(x, w)
        return y.copy(), (x, w, y)

    def vjp(d, cache):
        x, w, y = cache
        return {"x": (d * (1 - y * y)) @ w.T, "w": x.T @ (d * (1 - y * y))}

    return fn, vjp


def one_buffer():
    """All forwards keep x in one buffer."""
    buffers = {}

    def fn(x, w):
        kept = buffers.setdefault((x.shape, x.dtype), np.empty_like(x))
        kept[...] = x
        return _layer(x, w), (kept, w)

    return fn, lambda d, cache: _grads(d, *cache)


def last_forward():
    """The backward looks at what the last forward left in a global."""
    last = {}

    def fn(x, w):
        last["x"] = x.copy()
        return _layer(x, w), (x, w)

    return fn, lambda d, cache: _grads(d, last["x"], cache[1])


def first_forward():
    """The cache of the first call is kept for ever."""
    first = {}

    def fn(x, w):
        first.setdefault(x.shape, x.copy())
        return _layer(x, w), (first[x.shape], w)

    return fn, lambda d, cache: _grads(d, *cache)


def first_backward():
    """The gradient of the first call is kept for ever, per cotangent."""
    kept = {}

    def vjp(d, cache):
        return {k: g.copy() for k, g in kept.setdefault(d.tobytes(), _grads(d, *cache)).items()}

    return lambda x, w: (_layer(x, w), (x, w)), vjp


def accumulates():
    """dw is added to that of the call before."""
    total = {}

    def vjp(d, cache):
        grads = _grads(d, *cache)
        total["w"] = total.get("w", 0) + grads["w"]
        return {**grads, "w": total["w"].copy()}

    return lambda x, w: (_layer(x, w), (x, w)), vjp


def spoils_its_input():
    """The forward works in place."""

    def fn(x, w):
        x += 1
        return _layer(x, w), (x.copy(), w)

    return fn, lambda d, cache: _grads(d, *cache)


def spoils_its_cotangent():
    """The backward works in place."""

    def vjp(d, cache):
        x, w = cache
        d *= 1 - np.tanh(x @ w) ** 2
        return {"x": d @ w.T, "w": x.T @ d}

    return lambda x, w: (_layer(x, w), (x, w)), vjp


def works_in_place_on_a_copy():
    """In place, on memory of its own."""

    def fn(x, w):
        y = x @ w
        np.tanh(y, out=y)
        return y, (x, w)

    def vjp(d, cache):
        x, w = cache
        dz = x @ w
        np.tanh(dz, out=dz)
        dz *= -dz
        dz += 1
        dz *= d
        return {"x": dz @ w.T, "w": x.T @ dz}

    return fn, vjp


def single_cache():
    """The cache is in float32."""
    return lambda x, w: (_layer(x, w), (x.astype(np.float32), w)), lambda d, c: _grads(d, c[0].astype(float), c[1])


def single_throughout(factor=1.0):
    """fn computes in float32, and so does the backward."""

    def fn(x, w):
        x, w = x.astype(np.float32), w.astype(np.float32)
        return _layer(x, w).astype(float), (x, w)

    def vjp(d, cache):
        return {k: factor * g.astype(float) for k, g in _grads(d.astype(np.float32), *cache).items()}

    return fn, vjp


def one_layout():
    """Right for C order only."""

    def vjp(d, cache):
        x, w = cache
        grads = _grads(d, x, w)
        return grads if w.flags.c_contiguous else {**grads, "w": grads["w"] * 1.001}

    return lambda x, w: (_layer(x, w), (x, w)), vjp


def random_backward():
    """Dropout with another mask in the backward."""
    rng = np.random.default_rng(0)

    def vjp(d, cache):
        return {k: g * 2 * (rng.random(g.shape) < 0.5) for k, g in _grads(d, *cache).items()}

    return lambda x, w: (_layer(x, w), (x, w)), vjp


def seeded_dropout(fresh=False):
    """Dropout whose mask follows from a seed; ``fresh``: the backward draws from another."""

    def mask(shape, seed):
        return (np.random.default_rng(seed).random(shape) < 0.7) / 0.7

    def fn(x, w):
        return _layer(x, w) * mask((len(x), w.shape[1]), 3), (x, w)

    return fn, lambda d, cache: _grads(d * mask(d.shape, 4 if fresh else 3), *cache)


def wrong_keys():
    """The names are swapped."""

    def vjp(d, cache):
        grads = _grads(d, *cache)
        return {"x": grads["w"], "w": grads["x"]}

    return lambda x, w: (_layer(x, w), (x, w)), vjp


def no_gradient():
    """dw is forgotten."""
    return lambda x, w: (_layer(x, w), (x, w)), lambda d, cache: {"x": _grads(d, *cache)["x"]}


def not_finite():
    """NaN where the cotangent is negative."""

    def vjp(d, cache):
        with np.errstate(invalid="ignore"):
            return {k: g + 0 * np.sqrt(d).sum() for k, g in _grads(d, *cache).items()}

    return lambda x, w: (_layer(x, w), (x, w)), vjp


def constant():
    """Something is added that does not come from the cotangent."""
    return lambda x, w: (_layer(x, w), (x, w)), lambda d, c: {k: g + 1e-3 for k, g in _grads(d, *c).items()}


SUBJECTS = (
    stateful(
        "a layer and its cache",
        INPUTS,
        cached,
        one_buffer_for_all_forwards=one_buffer,
        a_global_of_the_last_forward=last_forward,
        the_cache_of_the_first_call=first_forward,
        the_gradient_of_the_first_call=first_backward,
        added_to_the_last_call=accumulates,
        names_swapped=wrong_keys,
        one_name_forgotten=no_gradient,
        NaN=not_finite,
        a_constant_added=constant,
        right_for_one_layout=one_layout,
    ),
    stateful("a layer and a copied cache", INPUTS, copied, cache_in_float32=single_cache, random_mask=random_backward),
    stateful("a layer that keeps its output", INPUTS, output_cached, input_changed=spoils_its_input),
    stateful("a layer that works in place", INPUTS, works_in_place_on_a_copy, cotangent_changed=spoils_its_cotangent),
    stateful("a layer in float32", INPUTS, single_throughout, off_by_a_thousandth=lambda: single_throughout(1.001)),
    stateful("dropout from a seed", INPUTS, seeded_dropout, another_seed=lambda: seeded_dropout(fresh=True)),
    subject(
        "dropout by a mask",
        {**INPUTS, "keep": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]) > 0},
        lambda x, w, keep: _layer(x, w) * keep / 0.7,
        lambda d, x, w, keep: _grads(d * keep / 0.7, x, w),
        scaled_once=lambda d, x, w, keep: _grads(d * keep, x, w),
    ),
)

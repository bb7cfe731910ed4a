"""Notebook 03, is it right?: two hints for each exercise, and its worked solution."""

import numpy as np

HINTS = {
    "central": (
        "For each entry of x make a step that is zero everywhere else. `np.ndindex(x.shape)` gives every "
        "index of an array of any shape.",
        "Evaluate f at x plus the step and at x minus the step, and divide by how far apart these two "
        "points are. Make new arrays; x itself stays as it is.",
    ),
    "complex_step": (
        "Step along i: f at x plus i h in one entry. In which part of the result is the derivative, and "
        "multiplied by what?",
        "Nothing is subtracted, so a step of 1e-30 is no trouble. Take the imaginary part and divide by h, "
        "entry by entry.",
    ),
    "check": (
        "One random dout makes a scalar of the output; one random direction per array makes a single slope "
        "of its gradient. The slope by differences and the sum of gradient times direction must agree.",
        "Compare with a relative part, a little above the error of your oracle, and an absolute one made "
        "from the rounding of f. Before that compare shapes; and write the comparison such that NaN fails "
        "it.",
    ),
}


def central(f, x, h):
    """The gradient of f at x, of the shape of x."""
    grad = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        e = np.zeros(x.shape)
        e[index] = h
        # (f(x + h e) - f(x - h e)) / 2h
        grad[index] = (f(x + e) - f(x - e)) / (2 * h)
    return grad


def complex_step(f, x):
    """The gradient of f at x, of the shape of x."""
    grad, h = np.zeros(x.shape), 1e-30
    for index in np.ndindex(x.shape):
        e = np.zeros(x.shape)
        e[index] = h
        # Im f(x + ih e) / h
        grad[index] = f(x + 1j * e).imag / h
    return grad


def check(fn, vjp, inputs, wrt, seed):
    """True if vjp gives the gradients of fn at this point."""
    rng, h = np.random.default_rng(seed), 1e-5
    out, cache = fn(**inputs)
    dout = rng.standard_normal(np.shape(out))
    grads = vjp(dout, cache)
    # what rounding leaves of the difference below, ten times over
    noise = 1e-15 * np.abs(dout * out).sum() / h
    for name in wrt:
        if np.shape(grads[name]) != inputs[name].shape:
            return False
        v = rng.standard_normal(inputs[name].shape)
        up, _ = fn(**{**inputs, name: inputs[name] + h * v})
        down, _ = fn(**{**inputs, name: inputs[name] - h * v})
        # <dout, f(x + hv) - f(x - hv)> / 2h against <grad, v>
        slope, hand = (dout * (up - down)).sum() / (2 * h), (grads[name] * v).sum()
        # not (... <= ...): a NaN is neither below nor above
        if not abs(slope - hand) <= 1e-6 * max(abs(slope), abs(hand)) + noise:
            return False
    return True

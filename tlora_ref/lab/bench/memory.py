"""What is kept for a backward, measured; and bytes over rank and model size, by formula.

Equation    the closed forms of counts.py
Checked by  tests/test_activations.py, tests/test_bench.py.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ...counts import ACTIVATIONS, activations, textbook_activations, trained
from ...known import KNOWN, chosen

MODELS = ("roberta-base", "roberta-large", "llama-2-7b", "llama-2-70b")
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)


def kept_bytes(call: Callable[[], Any], apart: Iterable[Any]) -> int:
    """Bytes of the distinct storages that autograd saves during ``call``, those of the tensors ``apart`` left out."""
    import torch

    known = {t.untyped_storage().data_ptr() for t in apart if t is not None}
    saved = {}

    def pack(t: Any) -> Any:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage  # holding it keeps its address from being given out again
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = call()
    if not out.requires_grad:
        raise ValueError("nothing in the call needs a gradient")
    return sum(storage.nbytes() for storage in saved.values())


def cached_arrays(cache: Any) -> Iterator[np.ndarray]:
    """The arrays that a cache of by_hand holds, at any depth; a view counts as the array it looks into."""
    if isinstance(cache, np.ndarray):
        yield cache if cache.base is None else cache.base
    elif isinstance(cache, (tuple, list)):
        for part in cache:
            yield from cached_arrays(part)


def cached_bytes(cache: Any, apart: Iterable[np.ndarray]) -> int:
    """Bytes of the distinct arrays in a cache of by_hand, the model's own (``apart``) left out."""
    known = {id(a if a.base is None else a.base) for a in apart}
    found = {id(a): a.nbytes for a in cached_arrays(cache)}
    return sum(nbytes for key, nbytes in found.items() if key not in known)


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that ``call`` holds at one time beyond what was there before, of what Python and NumPy allocate."""
    call()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def over_rank_and_model(rows: int = 4096) -> list[dict[str, Any]]:
    """Bytes in float32 for query and value of known models at each rank: an adapter file's numbers, AdamW's two
    moments, what adapted matrices keep from ``rows`` tokens (and TLoRA's in the textbook order)."""
    lines = []
    for model in MODELS:
        shape = KNOWN[model]
        adapted = [linear.shape for linear in chosen(shape, ("query", "value"))]
        matrices = adapted * shape.layers
        again = rows * adapted[0][0] * (len(adapted) - 1) * shape.layers  # query and value read the same x
        for method in ACTIVATIONS:
            for rank in RANKS:
                n = trained(method, matrices, rank)
                kept = sum(activations(method, rows, I, O, rank) for I, O in matrices)
                kept -= again if method == "lora" else 0
                textbook = sum(textbook_activations(rows, O, rank) for _, O in matrices)
                lines.append(
                    {"model": model, "method": method, "rank": rank, "adapter": 4 * n, "optimizer": 8 * n,
                     "activations": 4 * kept} | ({"textbook": 4 * textbook} if method == "tlora" else {})
                )  # fmt: skip
    return lines


def measured(rows: int) -> list[dict[str, Any]]:
    """The formula where it can be held against a layer: one query matrix of the models up to width 1,024, rank 32,
    ``rows`` tokens; numbers as ``over_rank_and_model`` gives them for one matrix."""
    import torch
    from torch import nn

    from ...by_autograd.linear import AdaptedLinear, TLoRALinear
    from ...config import AdapterConfig

    lines = []
    for model in MODELS:
        I, O = chosen(KNOWN[model], ("query",))[0].shape
        if max(I, O) > 1024:
            continue
        for method in ACTIVATIONS:
            kind = TLoRALinear if method == "tlora" else AdaptedLinear
            layer = kind(nn.Linear(I, O), AdapterConfig(method, rank=32), "query")
            optimizer = torch.optim.AdamW(p for p in layer.parameters() if p.requires_grad)
            x = torch.randn(rows, I, requires_grad=True)
            kept = kept_bytes(lambda layer=layer, x=x: layer(x), [*layer.parameters(), *layer.buffers()])
            layer(x).sum().backward()
            optimizer.step()
            moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
            lines.append({
                "model": model, "method": method, "rows": rows,
                "adapter": sum(p.nbytes for p in layer.parameters() if p.requires_grad),
                "adapter_formula": 4 * trained(method, [(I, O)], 32),
                "optimizer": sum(t.nbytes for t in moments),
                "optimizer_formula": 8 * trained(method, [(I, O)], 32),
                "activations": kept,
                "activations_formula": 4 * activations(method, rows, I, O, 32),
            })  # fmt: skip
    return lines

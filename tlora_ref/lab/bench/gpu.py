"""A whole model's training step on a device: TLoRA, LoRA and VeRA on a model shaped like RoBERTa-large.

Equation    the floor is the frozen model's own forward and backward, the gradient going down to the
            embeddings, as it must for an adapter in the lowest layer
Checked by  tests/test_bench.py: the same code on a tiny model and the CPU

Random weights, batch 32 of 128 tokens, bfloat16 autocast, query and value at rank 32. Eager; compiled by
torch.compile; and eager, recorded once as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...by_autograd.inject import inject
from ...shapes import InputError
from .timing import interleaved

FLOOR = "frozen model"
MODES = ("eager", "torch.compile", "CUDA graph")


@dataclass(frozen=True)
class Shape:
    """The model and the batch; RoBERTa-large by default (Liu et al., arXiv 1907.11692, table 9)."""

    layers: int = 24
    width: int = 1024
    heads: int = 16
    hidden: int = 4096
    vocab: int = 50265
    batch: int = 32
    time: int = 128
    rank: int = 32


def model(shape: Shape, device: str, kind: str) -> nn.Module:
    """The model with random weights, frozen, and an adapter: "TLoRA", "LoRA, PEFT", "VeRA, PEFT" or none."""
    import peft
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=shape.vocab, hidden_size=shape.width, num_hidden_layers=shape.layers, num_labels=2,
        num_attention_heads=shape.heads, intermediate_size=shape.hidden, max_position_embeddings=shape.time + 2,
        type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        base = RobertaForSequenceClassification(config)
    base.requires_grad_(False)
    targets = ["query", "value"]
    if kind == "TLoRA":
        inject(base, targets=tuple(targets), rank=shape.rank)
    elif kind == "LoRA, PEFT":
        base = peft.get_peft_model(base, peft.LoraConfig(target_modules=targets, r=shape.rank, lora_alpha=shape.rank))
    elif kind == "VeRA, PEFT":
        base = peft.get_peft_model(base, peft.VeraConfig(target_modules=targets, r=shape.rank))
    return base.to(device).train()


def step(net: nn.Module, embedded: Tensor, labels: Tensor, optimizer: Any, device: str) -> Callable[[], None]:
    """Forward, backward and AdamW from embedded tokens (N, T, D)."""

    def call() -> None:
        embedded.grad = None
        with torch.autocast(device, torch.bfloat16):
            loss = net(inputs_embeds=embedded, labels=labels).loss
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

    return call


def recorded(call: Callable[[], None]) -> Callable[[], None]:
    """The call as one CUDA graph, after three runs on a side stream as torch.cuda.graph asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(mode: str, seconds: float, device: str = "cuda", shape: Shape | None = None) -> list[dict[str, Any]]:
    """One row per kind of model: time over the floor's, and the most that a step holds beyond the model (CUDA alone). A
    mode that torch cannot run on this model gets one row with its reason. Raises InputError without the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is available to this PyTorch")
    try:
        return _measure(mode, seconds, device, shape or Shape())
    except RuntimeError as error:  # a graph that cannot be recorded, a compiler that is missing
        return [{"mode": mode, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}]


def _measure(mode: str, seconds: float, device: str, shape: Shape) -> list[dict[str, Any]]:
    cuda = device == "cuda"
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    calls, peaks = {}, {}
    for kind in (FLOOR, "TLoRA", "LoRA, PEFT", "VeRA, PEFT"):
        net = model(shape, device, kind)
        trained = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, capturable=cuda) if trained else None
        # the lowest layer's adapters need the gradient of all above: the floor has it go all the way as well
        embedded = torch.randn(shape.batch, shape.time, shape.width, device=device, requires_grad=kind == FLOOR)
        labels = torch.randint(0, 2, (shape.batch,), device=device)
        call = step(torch.compile(net) if mode == "torch.compile" else net, embedded, labels, optimizer, device)
        call()
        if cuda:
            wait()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            call()
            wait()
            peaks[kind] = torch.cuda.max_memory_allocated() - before
        calls[kind] = recorded(call) if mode == "CUDA graph" else call
    times = interleaved(calls, FLOOR, seconds, wait=wait)
    return [{"mode": mode, "model": kind, **times[kind].summary(), "peak_bytes": peaks.get(kind)} for kind in calls]

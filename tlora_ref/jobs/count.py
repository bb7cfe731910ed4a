"""How many numbers a method trains and stores on a known model, or on any number of layers of any width, and what
AdamW keeps for them; next to LoRA of the same rank. Closed forms: no model is built.

    python -m tlora_ref count --model roberta-large --rank 32 --targets query,value
    python -m tlora_ref count --layers 48 --width 1600 --rank 16
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..config import AdapterConfig
from ..counts import Counts, frozen, trained
from ..known import KNOWN, Shape, chosen, plain
from ..registry import METHODS
from ..shapes import InputError
from .output import size, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``count``."""
    parser.add_argument("--model", help=f"one of {', '.join(KNOWN)}")
    parser.add_argument("--layers", type=int, help="instead of --model: number of layers")
    parser.add_argument("--width", type=int, help="instead of --model: model width, a quarter of the feed-forward's")
    parser.add_argument("--rank", type=int, default=32, help="rank of the adapter (32)")
    parser.add_argument("--targets", default="query,value", help="matrices, by comma: query, key, value, output, "
                        "ffn_in, ffn_out, or names such as q_proj (query,value)")  # fmt: skip
    parser.add_argument("--method", default="tlora", help=f"one of {', '.join(METHODS)} (tlora)")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 when the counts are printed."""
    shape = _shape(args)
    targets = tuple(dict.fromkeys(name.strip() for name in args.targets.split(",")))
    config = AdapterConfig(method=args.method, rank=args.rank, targets=targets)
    linears = chosen(shape, targets)
    for linear in linears:
        if config.rank > min(linear.shape):
            raise InputError(f"--rank is {config.rank}, larger than min(I, O) = {min(linear.shape)} of {linear.name}")
    matrices = [linear.shape for linear in linears] * shape.layers
    methods = [config.method] if config.method == "lora" else [config.method, "lora"]
    rows = [_row(method, matrices, config.rank) for method in methods]
    rows[0]["ratio_to_lora"] = rows[-1]["trained"] / rows[0]["trained"]
    if args.json:
        layout = [{"name": f"{shape.prefix}.*.{linear.name}", "shape": linear.shape} for linear in linears]
        print(json.dumps({"job": "count", "model": args.model, "layers": shape.layers, "targets": targets,
                          "matrices": layout, "methods": rows}, indent=1))  # fmt: skip
        return 0
    print(f"{args.model or f'width {args.width}'}, rank {config.rank}, {len(matrices)} matrices:")
    for linear in linears:
        both = f"  ({', '.join(linear.roles)} in one)" if len(linear.roles) > 1 else ""
        print(f"  {shape.layers} x {shape.prefix}.*.{linear.name}  {linear.shape[0]} x {linear.shape[1]}{both}")
    print()
    header = ["method", "trained", "stored", "in float32", "AdamW, float32", "drawn from the seed"]
    print(table(header, [
        [r["method"], f"{r['trained']:,}", f"{r['stored']:,}", size(r["stored_bytes"]), size(r["optimizer_bytes"]),
         f"{r['frozen_random']:,}"]
        for r in rows
    ]))  # fmt: skip
    if len(rows) > 1:
        print(f"\nLoRA of the same rank trains {rows[0]['ratio_to_lora']:.2f} times as many.")
    return 0


def _shape(args: argparse.Namespace) -> Shape:
    explicit = [value for value in (args.layers, args.width) if value is not None]
    if args.model is None and len(explicit) == 2:
        if min(explicit) < 1:
            raise InputError(f"--layers is {args.layers} and --width {args.width}, expected whole numbers, at least 1")
        return plain(args.layers, args.width)
    if args.model is None or explicit:
        raise InputError("expected either --model, or both --layers and --width")
    if args.model not in KNOWN:
        raise InputError(f"--model is {args.model!r}, expected one of {', '.join(KNOWN)}")
    return KNOWN[args.model]


def _row(method: str, matrices: list[tuple[int, int]], rank: int) -> dict[str, Any]:
    n = trained(method, matrices, rank)
    counts = Counts(base=0, trained=n, frozen_random=frozen(method, matrices, rank), optimizer=2 * n)
    return {
        "method": method,
        "rank": rank,
        "trained": n,
        "stored": counts.stored,
        "stored_bytes": counts.stored_bytes(),
        "frozen_random": counts.frozen_random,
        "optimizer": counts.optimizer,
        "optimizer_bytes": counts.optimizer_bytes(),
    }

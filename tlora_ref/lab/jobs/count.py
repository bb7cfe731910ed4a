"""How many numbers does a method train and store, and what does AdamW keep for them?

The model is a known one, or any number of layers of any width; beside the method stands LoRA of the same rank. The
counts are closed forms, and no model is built.

    python -m tlora_ref count --model roberta-large --rank 32 --targets query,value
    python -m tlora_ref count --layers 48 --width 1600 --rank 16 --method adapter_h

Adapter-H and -P sit in blocks: they are counted at the model's width, as often in a layer as they sit there, and
the LoRA beside them is the one on query and value.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ...by_hand.methods import METHODS
from ...config import AdapterConfig
from ...counts import Counts, frozen, trained
from ...known import KNOWN, Shape, chosen, plain
from ...methods import BLOCKS
from ...shapes import InputError
from ...tables import output_folder, size, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``count``."""
    parser.add_argument(
        "--model",
        help=f"One of {', '.join(KNOWN)}; or a folder with the config.json of a model of transformers, whose targets "
        "are names in that model.",
    )
    parser.add_argument("--layers", type=int, help="The number of layers, instead of --model.")
    parser.add_argument(
        "--width", type=int, help="The model width, instead of --model. The feed-forward is four times as wide."
    )
    parser.add_argument("--rank", type=int, default=32, help="The rank of the adapter. Default: 32.")
    parser.add_argument("--targets", help="The matrices, by comma: query, key, value, output, ffn_in, ffn_out, or "
                        "names such as q_proj. Default: query,value. For adapter_h and adapter_p the blocks: "
                        f"{', '.join(BLOCKS)}.")  # fmt: skip
    parser.add_argument("--method", default="tlora", help=f"One of {', '.join(METHODS)}. Default: tlora.")
    parser.add_argument("--json", action="store_true", help="Print the counts as JSON, not as a table.")
    parser.add_argument(
        "--gallery", metavar="FOLDER", help="Write the gallery of all methods into this folder, instead."
    )


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 when the counts are printed."""
    if args.gallery is not None:
        return _gallery(args.gallery)
    if args.model is not None and args.model not in KNOWN and (Path(args.model) / "config.json").is_file():
        return _folder(args)
    shape = _shape(args)
    targets = None if args.targets is None else tuple(dict.fromkeys(name.strip() for name in args.targets.split(",")))
    config = AdapterConfig(method=args.method, rank=args.rank, targets=targets)
    adapted = places(shape, config)
    for name, (I, O) in adapted:
        if config.rank > min(I, O):
            raise InputError(f"--rank is {config.rank}, larger than min(I, O) = {min(I, O)} of {name}")
    beside = adapted if METHODS[config.method].on_matrices else places(shape, AdapterConfig("lora", config.rank))
    on = {config.method: adapted, "lora": beside}
    rows = [_row(method, everywhere(on[method], shape), config.rank, shape.heads) for method in on]
    rows[0]["ratio_to_lora"] = rows[-1]["trained"] / rows[0]["trained"]
    if args.json:
        layout = [{"name": f"{shape.prefix}.*.{name}", "shape": size} for name, size in adapted]
        print(json.dumps({"job": "count", "model": args.model, "layers": shape.layers, "targets": config.targets,
                          "matrices": layout, "methods": rows}, indent=1))  # fmt: skip
        return 0
    kind = "matrices" if METHODS[config.method].on_matrices else "blocks"
    print(f"{args.model or f'width {args.width}'}, rank {config.rank}, {len(adapted) * shape.layers} {kind}:")
    roles = {linear.name: linear.roles for linear in shape.block}
    for name, (I, O) in adapted:
        both = f"  ({', '.join(roles[name])} in one)" if len(roles.get(name, ())) > 1 else ""
        print(f"  {shape.layers} x {shape.prefix}.*.{name}  {I} x {O}{both}")
    print()
    header = ["method", "trained", "stored", "in float32", "AdamW, float32", "drawn from the seed"]
    print(table(header, [
        [r["method"], f"{r['trained']:,}", f"{r['stored']:,}", size(r["stored_bytes"]), size(r["optimizer_bytes"]),
         f"{r['frozen_random'] if METHODS[r['method']].from_seed else 0:,}"]
        for r in rows
    ]))  # fmt: skip
    if not METHODS[config.method].from_seed:
        print(f"\n{config.method} takes its frozen factors from W0: a file holds them too.")
    if len(rows) > 1:
        where = "" if METHODS[config.method].on_matrices else " on query and value"
        print(f"\nLoRA of the same rank{where} trains {rows[0]['ratio_to_lora']:.2f} times as many.")
    return 0


def _gallery(path: str) -> int:
    from ..gallery import write

    folder = output_folder(path, "gallery.md")
    write(folder)
    print(f"{folder / 'gallery.md'}, and a picture of every method in {folder / 'images'}/")
    return 0


def places(shape: Shape, config: AdapterConfig) -> list[tuple[str, tuple[int, int]]]:
    """Name and (I, O) of what is adapted in one layer: matrices, or blocks of the model's width."""
    if METHODS[config.method].on_matrices:
        return [(linear.name, linear.shape) for linear in chosen(shape, config.targets)]
    unknown = [target for target in config.targets if target not in BLOCKS]
    if unknown:
        raise InputError(f"unknown target {unknown[0]!r} for {config.method}, expected some of {', '.join(BLOCKS)}")
    width = chosen(shape, ("output",))[0].shape[1]
    return [(block, (width, width)) for block in config.targets]


def _folder(args: argparse.Namespace) -> int:
    """Count on the model that transformers builds from a config.json, on the meta device: no weights are read."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(f"a folder for --model needs torch and transformers: {error}") from None
    from ...by_autograd.inject import inject

    if args.json:
        raise InputError("--json goes with a known --model or with --layers and --width, not with a folder")
    try:
        config = transformers.AutoConfig.from_pretrained(args.model, local_files_only=True)
        kind = getattr(transformers, (config.architectures or [""])[0], None)
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config) if kind is None else kind(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{args.model}: transformers builds no model from its config.json ({reason})") from None
    targets = ("query", "value")
    if args.targets is not None:
        targets = tuple(dict.fromkeys(name.strip() for name in args.targets.split(",")))
    print(f"{args.model}, a {type(model).__name__}:")
    print(inject(model, targets if targets != ("all-linear",) else "all-linear", args.rank, method=args.method))
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


def everywhere(places: list[tuple[str, tuple[int, int]]], shape: Shape) -> dict[str, tuple[int, int]]:
    """(I, O) of what is adapted in all layers, by full name."""
    return {f"{shape.prefix}.{layer}.{name}": size for layer in range(shape.layers) for name, size in places}


def _row(method: str, matrices: dict[str, tuple[int, int]], rank: int, heads: int) -> dict[str, Any]:
    n = trained(method, matrices, rank, heads)
    random = frozen(method, matrices, rank, heads)
    counts = Counts(base=0, trained=n, frozen_random=random, optimizer=2 * n, from_seed=METHODS[method].from_seed)
    return {
        "method": method,
        "rank": rank,
        "trained": n,
        "stored": counts.stored,
        "stored_bytes": counts.stored_bytes(),
        "frozen_random": counts.frozen_random,
        "from_seed": counts.from_seed,
        "optimizer": counts.optimizer,
        "optimizer_bytes": counts.optimizer_bytes(),
    }

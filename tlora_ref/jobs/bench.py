"""Speed and memory, side by side: every time is a ratio between things that run in turn in one process.

    python -m tlora_ref bench layers     an adapted layer in torch, beside PEFT's and loralib's
    python -m tlora_ref bench encoder    a training step by hand, beside eager PyTorch and its matrix products
    python -m tlora_ref bench memory     bytes over rank and model size, by formula, checked where they fit
    python -m tlora_ref bench check      what a gradient check costs
    python -m tlora_ref bench gpu        a RoBERTa-large-shaped model's step on a CUDA device
    python -m tlora_ref bench all        all of these (the default; gpu where there is one)

Everything runs on one thread. Medians over rounds, with the quartiles; the machine is written into the result.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from ..shapes import InputError
from .output import output_folder, size, table, write_json
from .runs import one_thread, with_progress

PARTS = ("layers", "encoder", "memory", "check", "gpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``bench``."""
    parser.add_argument("part", nargs="?", default="all", choices=(*PARTS, "all"), help="what to measure (all)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, not as tables")
    parser.add_argument("--out", default="out/bench", help="folder for results and figures (out/bench)")


def run(args: argparse.Namespace) -> int:
    """Measure; 0 when it is done."""
    import torch

    from ..bench.timing import environment

    if args.part == "gpu" and not torch.cuda.is_available():
        raise InputError("bench gpu needs a CUDA device, and this PyTorch sees none; the other parts need none")
    folder, threads = output_folder(args.out), torch.get_num_threads()
    chosen = PARTS if args.part == "all" else (args.part,)
    report: dict[str, Any] = {"job": "bench", "quick": args.quick, **environment(threads=1)}
    if torch.cuda.is_available():
        report["device"] = torch.cuda.get_device_name()
    elif "gpu" in chosen:
        print("no CUDA device: the GPU part is left out, the rest is measured", file=sys.stderr)
        chosen = tuple(part for part in chosen if part != "gpu")
    try:
        torch.set_num_threads(1)
        with one_thread():
            for part, _ in with_progress([(p, None) for p in chosen], len(chosen), "bench"):
                report[part] = MEASURE[part](args.quick)
    finally:
        torch.set_num_threads(threads)
    for part in chosen:
        FIGURES.get(part, lambda *_: None)(folder, report[part])
    write_json(folder / "bench.json", report)
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    for part in chosen:
        print(f"{TITLES[part]}\n\n{TABLES[part](report[part])}\n")
    print(
        f"{report['processor']}, one thread of {report['cores']} cores, {report['date']}. "
        f"Results and figures: {folder}/"
    )
    return 0


# --- what is measured ----------------------------------------------------------------------------


def _layers(quick: bool) -> dict[str, Any]:
    from ..bench import layers

    if quick:
        return {"sizes": layers.measure(0.5, layers.SIZES[:2]), "sweeps": layers.measure_sweeps(0.1)}
    return {"sizes": layers.measure(12.0), "sweeps": layers.measure_sweeps(3.0)}


def _encoder(quick: bool) -> list[dict[str, Any]]:
    from ..bench import encoder

    return encoder.measure(0.5, encoder.WIDTHS[:3]) if quick else encoder.measure(8.0)


def _memory(quick: bool) -> dict[str, Any]:
    from ..bench import memory

    return {"formula": memory.over_rank_and_model(), "measured": memory.measured(256 if quick else 1024)}


def _check(quick: bool) -> list[dict[str, Any]]:
    from ..bench import check

    return check.measure(0.2, check.SIZES[:3]) if quick else check.measure()


def _gpu(quick: bool) -> list[dict[str, Any]]:
    from ..bench import gpu

    return gpu.measure(seconds=3.0 if quick else 20.0)


MEASURE: dict[str, Callable[[bool], Any]] = {
    "layers": _layers, "encoder": _encoder, "memory": _memory, "check": _check, "gpu": _gpu,
}  # fmt: skip


# --- what is shown -------------------------------------------------------------------------------

TITLES = {
    "layers": "One adapted layer, forward and backward with dx: time over the frozen layer's",
    "encoder": "The encoder's training step by hand, float32, 64 sequences of 16 tokens",
    "memory": "Query and value of known models in float32, by formula; activations of 4,096 tokens",
    "check": "A gradient check of TLoRA's layer: calls of the forward, time over one forward and backward",
    "gpu": "RoBERTa-large's shape, batch 32 x 128, bfloat16 autocast: time over the frozen model's own step",
}


def layers_table(report: dict[str, Any]) -> str:
    """A row per contestant and a column per size, in float32 and bfloat16."""
    rows = report["sizes"]
    cases = list(dict.fromkeys((r["dtype"], r["width"], r["rows"], r["rank"]) for r in rows))
    short = {"float32": "f32", "bfloat16": "bf16"}
    header = ["layer", *(f"{short[t]} {d}" for t, d, _, _ in cases), "kept at 1024"]
    lines = []
    for layer in dict.fromkeys(r["layer"] for r in rows):
        found = {(r["dtype"], r["width"], r["rows"], r["rank"]): r for r in rows if r["layer"] == layer}
        kept = found.get(("float32", 1024, 4096, 32))
        lines.append([layer, *(f"{found[case]['ratio']:.2f}" for case in cases),
                      f"{kept['kept_bytes'] / 1024:,.0f} KiB" if kept else ""])  # fmt: skip
    sizes = "; ".join(dict.fromkeys(f"d = {d}: N = {n:,}, r = {r}" for _, d, n, r in cases))
    return f"{table(header, lines)}\n{sizes}"


def encoder_table(rows: list[dict[str, Any]]) -> str:
    """A row per width."""
    header = ["width", "over PyTorch", "quartiles", "over its products", "kept", "by formula", "peak"]
    return table(header, [
        [str(r["width"]), f"{r['ratio_torch']:.2f}", f"{r['low_torch']:.2f} to {r['high_torch']:.2f}",
         f"{r['ratio_products']:.2f}", f"{r['kept_bytes']:,}", f"{r['closed_form_bytes']:,}", f"{r['peak_bytes']:,}"]
        for r in rows
    ])  # fmt: skip


def memory_table(report: dict[str, Any]) -> str:
    """A row per model and method at rank 32."""
    header = ["model", "method", "adapter", "optimizer", "activations", "textbook order"]
    return table(header, [
        [r["model"], r["method"], size(r["adapter"]), size(r["optimizer"]), size(r["activations"]),
         size(r["textbook"]) if "textbook" in r else ""]
        for r in report["formula"] if r["rank"] == 32
    ])  # fmt: skip


def check_table(rows: list[dict[str, Any]]) -> str:
    """A row per size and mode."""
    header = ["trained numbers", "mode", "calls", "time"]
    return table(header, [[f"{r['numbers']:,}", r["mode"], f"{r['calls']:,}", f"{r['ratio']:,.0f}"] for r in rows])


def gpu_table(rows: list[dict[str, Any]]) -> str:
    """A row per mode and model."""
    header = ["mode", "model", "ms", "over the floor", "beyond the model"]
    return table(header, [
        [r["mode"], r["error"], "", "", ""] if "error" in r else
        [r["mode"], r["model"], f"{1000 * r['seconds']:.1f}", f"{r['ratio']:.3f}",
         size(r["peak_bytes"]) if r["peak_bytes"] else ""]
        for r in rows
    ])  # fmt: skip


TABLES: dict[str, Callable[[Any], str]] = {
    "layers": layers_table, "encoder": encoder_table, "memory": memory_table, "check": check_table, "gpu": gpu_table,
}  # fmt: skip


def _layer_figures(folder: Any, report: dict[str, Any]) -> None:
    from ..bench import figures

    figures.overhead(folder / "layers", report["sweeps"])


def _encoder_figure(folder: Any, rows: list[dict[str, Any]]) -> None:
    from ..bench import figures

    figures.encoder(folder / "encoder", rows)


def _memory_figure(folder: Any, report: dict[str, Any]) -> None:
    from ..bench import figures

    figures.size_over_rank(folder / "memory", report["formula"])


def _check_figure(folder: Any, rows: list[dict[str, Any]]) -> None:
    from ..bench import figures

    figures.check_cost(folder / "check", rows)


FIGURES: dict[str, Callable[[Any, Any], None]] = {
    "layers": _layer_figures, "encoder": _encoder_figure, "memory": _memory_figure, "check": _check_figure,
}  # fmt: skip

"""Measure speed and memory side by side: every time is a ratio between things that run in turn in one process.

    python -m tlora_ref bench layers     times an adapted layer in torch, beside PEFT's and loralib's.
    python -m tlora_ref bench encoder    times a step by hand, beside eager PyTorch, HIPS autograd and JAX.
    python -m tlora_ref bench methods    times a training step with every method, by hand and in torch.
    python -m tlora_ref bench memory     computes bytes over rank and model size, and checks them where they fit.
    python -m tlora_ref bench check      measures what a gradient check costs.
    python -m tlora_ref bench gpu        times a step of a RoBERTa-large-shaped model on a CUDA device.
    python -m tlora_ref bench all        does all of these, gpu only where there is one. This is the default.

Everything runs on one thread. The results are medians over rounds, with their quartiles, and name the machine and the
kernels of its matrix products. HIPS autograd and JAX take part where they are installed (the extra ``bench``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...shapes import InputError
from ...tables import output_folder, size, table, write_json
from ..runs import one_torch_thread, run_all

PARTS = ("layers", "encoder", "methods", "memory", "check", "gpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``bench``."""
    parser.add_argument(
        "part", nargs="?", default="all", choices=(*PARTS, "all"), help="What is measured. Default: all."
    )
    parser.add_argument("--quick", action="store_true", help="Take small sizes and few rounds.")
    parser.add_argument("--json", action="store_true", help="Print the results as JSON, not as tables.")
    parser.add_argument("--out", default="out/bench", help="The folder for results and figures. Default: out/bench.")


def run(args: argparse.Namespace) -> int:
    """Measure; 0 when it is done."""
    import torch

    from ..bench.kernels import held_back
    from ..bench.timing import environment

    cuda = torch.cuda.is_available()
    if args.part == "gpu" and not cuda:
        raise InputError("bench gpu needs a CUDA device, and this PyTorch sees none; the other parts need none")
    folder = output_folder(args.out, "bench.json")
    chosen = PARTS if args.part == "all" else (args.part,)
    if not cuda and "gpu" in chosen:
        print("no CUDA device: the GPU part is left out, the rest is measured", file=sys.stderr)
        chosen = tuple(part for part in chosen if part != "gpu")
    if (warning := held_back()) is not None:
        print(warning, file=sys.stderr)
    report: dict[str, Any] = {"job": "bench", "quick": args.quick, **environment(threads=1)}
    report |= {"device": torch.cuda.get_device_name()} if cuda else {}
    same = json.dumps({key: value for key, value in report.items() if key != "date"})
    store = folder / f"runs-{sha256(same.encode()).hexdigest()[:12]}.jsonl"
    tasks = [task for part in chosen for task in TASKS[part](args.quick)]
    with one_torch_thread():
        found = run_all(measure, None, tasks, "bench", workers=1, store=store)
    for part in chosen:
        own = [result for task, result in zip(tasks, found, strict=True) if task[0] == part]
        report[part] = [row for rows in own for row in rows]
    write_json(folder / "bench.json", report)
    for part in chosen:
        FIGURES[part](folder, report[part])
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    for part in chosen:
        print(f"{TITLES[part]}\n\n{TABLES[part](report[part])}\n")
    print(machine(report))
    print(f"Results and figures: {folder}/")
    return 0


def machine(report: Mapping[str, Any]) -> str:
    """What a time is worth nothing without, in a line or two."""
    from ..bench.kernels import in_words

    line = f"{report['processor']}, one thread of {report['cores']} cores, {report['date']}."
    return f"{line}\nKernels: {in_words(report['kernels'])}." if "kernels" in report else line


# --- what is measured ----------------------------------------------------------------------------


def _layers(quick: bool) -> list[tuple[Any, ...]]:
    from ..bench import layers

    sizes = [("layers", "size", *size, kind, 0.5 if quick else 12.0)
             for kind in ("float32", "bfloat16") for size in layers.sizes(kind, quick)]  # fmt: skip
    sweeps = [("layers", over, *size, "float32", 0.1 if quick else 3.0)
              for over, swept in layers.SWEEPS.items() for size in swept]  # fmt: skip
    return sizes + sweeps


def _encoder(quick: bool) -> list[tuple[Any, ...]]:
    from ..bench import encoder

    widths = [("encoder", width, 0.5 if quick else 16.0) for width in encoder.WIDTHS[: 3 if quick else None]]
    return [*widths, ("encoder", "MiniLM", 2 if quick else 20)]


def _check(quick: bool) -> list[tuple[Any, ...]]:
    from ..bench import check

    return [("check", rank, 0.2 if quick else 1.0) for rank in check.RANKS[: 3 if quick else None]]


def _gpu(quick: bool) -> list[tuple[Any, ...]]:
    from ..bench import gpu

    return [("gpu", mode, 3.0 if quick else 20.0) for mode in gpu.MODES]


TASKS: dict[str, Callable[[bool], list[tuple[Any, ...]]]] = {
    "layers": _layers, "encoder": _encoder, "check": _check, "gpu": _gpu,
    "methods": lambda quick: [("methods", 0.5 if quick else 30.0)],
    "memory": lambda quick: [("memory", 256 if quick else 1024)],
}  # fmt: skip
"""What a part measures, one tuple a case."""


def measure(_: None, task: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The rows of one case."""
    part, *case = task
    if part == "layers":
        import torch

        from ..bench import layers

        over, width, rows, rank, dtype, seconds = case
        found = layers.measure(width, rows, rank, getattr(torch, dtype), seconds)
        return [{"over": over, **row} for row in found if over == "size" or row["layer"] in layers.SWEPT]
    if part == "encoder":
        from ..bench import encoder, minilm

        return [minilm.measure(case[1]) if case[0] == "MiniLM" else encoder.measure(*case)]
    if part == "methods":
        from ..bench import methods

        return methods.measure(*case)
    if part == "memory":
        from ..bench import memory

        return [{"kind": "formula", **row} for row in memory.over_rank_and_model()] + [
            {"kind": "measured", **row} for row in memory.measured(*case)
        ]
    if part == "check":
        from ..bench import check

        return check.measure(*case)
    from ..bench import gpu

    return gpu.measure(*case)


# --- what is shown -------------------------------------------------------------------------------

TITLES = {
    "layers": "One adapted layer, forward and backward with dx: time over the frozen layer's",
    "encoder": "The encoder's loss and gradients, float32, 64 sequences of 16 tokens: time over eager PyTorch's",
    "methods": "A training step of the encoder at width 128 with every method: time over the step of the head alone",
    "memory": "Query and value of known models in float32, by formula; activations of 4,096 tokens",
    "check": "A gradient check of TLoRA's layer: calls of the forward, time over one forward and backward",
    "gpu": "RoBERTa-large's shape, batch 32 x 128, bfloat16 autocast: time over the frozen model's own step",
}


def layers_table(rows: list[dict[str, Any]]) -> str:
    """A row per contestant and a column per size, in float32 and bfloat16."""
    rows = [r for r in rows if r["over"] == "size"]
    cases = list(dict.fromkeys((r["dtype"], r["width"], r["rows"], r["rank"]) for r in rows))
    short = {"float32": "f32", "bfloat16": "bf16"}
    header = ["layer", *(f"{short[t]} {d}" for t, d, _, _ in cases), "kept", "update"]
    single = [case for case in cases if case[0] == "float32"]
    lines = []
    for layer in dict.fromkeys(r["layer"] for r in rows):
        found = {(r["dtype"], r["width"], r["rows"], r["rank"]): r for r in rows if r["layer"] == layer}
        kept = found[single[-1]]["kept_bytes"]
        share = found[cases[-1]]["update_share"]
        lines.append([layer, *(f"{found[case]['ratio']:.2f}" for case in cases), f"{kept / 2**20:.1f} MiB",
                      "" if share is None else f"{share:.2f}"])  # fmt: skip
    sizes = "; ".join(dict.fromkeys(f"d = {d}: N = {n:,}, r = {r}" for _, d, n, r in cases))
    found = (
        f"{table(header, lines)}\n{sizes}\nkept: for the backward at d = {single[-1][1]} in float32; "
        f"update: what bfloat16 leaves of a small one at d = {cases[-1][1]}"
    )
    if len(cases) == 2 * len(single):
        return found
    return (
        f"{found}\nPyTorch does not multiply bfloat16 with this processor's vectors: one size, and no time to judge by"
    )


def encoder_table(rows: list[dict[str, Any]]) -> str:
    """A row per width, and one for MiniLM where it was measured; a column per contestant that took part."""
    widths, larger = ([r for r in rows if ("width" in r) == there] for there in (True, False))
    others = list(dict.fromkeys(name for r in widths for name in r.get("others", {})))
    header = ["width", "by hand", "quartiles", *others, "by hand over products", "kept", "by formula", "peak"]
    lines = [
        [str(r["width"]), f"{r['ratio_torch']:.2f}", f"{r['low_torch']:.2f} to {r['high_torch']:.2f}",
         *(f"{r['others'][name]['ratio']:.2f}" if name in r.get("others", {}) else "" for name in others),
         f"{r['ratio_products']:.2f}", f"{r['kept_bytes']:,}", f"{r['closed_form_bytes']:,}", f"{r['peak_bytes']:,}"]
        for r in widths
    ]  # fmt: skip
    lines += [[r["model"], f"{r['ratio']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}", *[""] * (len(header) - 3)]
              for r in larger]  # fmt: skip
    return "\n".join([table(header, lines), *(_of_minilm(r) for r in larger), *_threads(widths)])


def _of_minilm(row: dict[str, Any]) -> str:
    return (
        f"{row['model']}: TLoRA of rank {row['rank']} on query and value of all layers, {row['batch']} questions of at "
        f"most {row['tokens']} tokens; by hand {row['by_hand_ms']:.0f} ms, PyTorch {row['torch_ms']:.0f} ms"
    )


def _threads(rows: list[dict[str, Any]]) -> list[str]:
    """The line on how many threads were busy, of rows that know it."""
    found = [r["cpu_over_wall"] for r in rows if "cpu_over_wall" in r]
    if not found:
        return []
    most = [f"{name} {max(busy[name] for busy in found if name in busy):.2f}" for name in found[0]]
    return [f"CPU time over wall-clock time, at most: {', '.join(most)}"]


def methods_table(rows: list[dict[str, Any]]) -> str:
    """A row per method."""
    header = ["method", "rank", "trained", "by hand", "quartiles", "in torch", "quartiles"]
    return table(header, [
        [r["method"], str(r["rank"]), f"{r['trained']:,}",
         f"{r['ratio_by_hand']:.2f}", f"{r['low_by_hand']:.2f} to {r['high_by_hand']:.2f}",
         f"{r['ratio_torch']:.2f}", f"{r['low_torch']:.2f} to {r['high_torch']:.2f}"]
        for r in rows
    ])  # fmt: skip


def memory_table(rows: list[dict[str, Any]]) -> str:
    """A row per model and method at rank 32."""
    header = ["model", "method", "adapter", "optimizer", "activations", "textbook order"]
    return table(header, [
        [r["model"], r["method"], size(r["adapter"]), size(r["optimizer"]), size(r["activations"]),
         size(r["textbook"]) if "textbook" in r else ""]
        for r in rows if r["kind"] == "formula" and r["rank"] == 32
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
    "layers": layers_table, "encoder": encoder_table, "methods": methods_table, "memory": memory_table,
    "check": check_table, "gpu": gpu_table,
}  # fmt: skip


def _figure(
    name: str, stem: str, kind: Callable[[dict[str, Any]], bool] = lambda row: True
) -> Callable[[Path, Any], None]:
    def draw(folder: Path, rows: list[dict[str, Any]]) -> None:
        from ..bench import figures

        getattr(figures, name)(folder / stem, [row for row in rows if kind(row)])

    return draw


FIGURES: dict[str, Callable[[Path, Any], None]] = {
    "layers": _figure("overhead", "layers", lambda row: row["over"] != "size"),
    "encoder": _figure("encoder", "encoder"),
    "memory": _figure("size_over_rank", "memory", lambda row: row["kind"] == "formula"),
    "check": _figure("check_cost", "check"),
    "methods": lambda folder, rows: None,
    "gpu": lambda folder, rows: None,
}

"""The main job: TLoRA from hand-written gradients to an adapted model, on real handwritten digits.

1. It checks the hand gradients against central differences and the complex step, for every array of a small encoder.
2. It pretrains an encoder on upright digits and turns the digits, so that the accuracy falls.
3. It attaches TLoRA, which changes nothing yet.
4. It adapts to the turned digits: the head only, TLoRA at three ranks, LoRA at two, everything. Every method gets the
   same search over learning rates on validation images; the accuracies are those on test images.
5. It writes one table, as text, JSON and CSV, and the figures.

--method adds a row for any other method, with --optimizer, --growth, --chain or --allocation how it is trained.
Steps 2 to 4 run by hand, or in PyTorch with --room by_autograd, from the same draws and into the same table.
"""

from __future__ import annotations

import argparse
import json
import sys
from statistics import mean, stdev
from typing import Any

import numpy as np

from ...by_hand.methods import METHODS
from ...config import AdapterConfig, EncoderConfig
from ...counts import count, held
from ...gradcheck import central_gradient, complex_step_gradient, relative_error
from ...init import attach, init_encoder
from ...shapes import InputError
from ...tables import output_folder, size, table, write_csv, write_json
from ..data import SHIFTS, load_digits
from ..digits import ENCODER, FULL, QUICK, WORDS, Setup, Task, adapt, named_setup, pretrain
from ..learning_rates import described, search
from ..rooms import ByAutograd, Room, add_room_arguments, chosen_room

ORACLES = {
    "central": ("central difference", 1e-6),
    "complex_step": ("complex step", 1e-11),
    "autograd": ("autograd", 1e-11),
}
"""What a right gradient is held against: its title, and the largest error it leaves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``demo``."""
    parser.add_argument(
        "--shift", default="rot90", help=f"What happens to the digits: {', '.join(SHIFTS)}. Default: rot90."
    )
    parser.add_argument(
        "--rank", type=int, default=16, help="TLoRA's middle rank; half of it and twice it run too. Default: 16."
    )
    parser.add_argument("--method", help=f"A method with a row of its own: {', '.join(METHODS)}.")
    for what in ("optimizer", "growth", "chain", "allocation"):
        words = ", ".join(word for word, chosen in WORDS.items() if chosen == what)
        parser.add_argument(f"--{what}", help=f"The {what} of --method, instead of its usual one or none: {words}.")
    parser.add_argument("--seeds", type=int, default=5, help="How many runs each method gets. Default: 5.")
    parser.add_argument("--quick", action="store_true", help="Run fewer epochs, two seeds and two learning rates.")
    add_room_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print the results as JSON, not as a table.")
    parser.add_argument("--out", default="out/demo", help="The folder for results and figures. Default: out/demo.")


def setups(rank: int) -> list[Setup]:
    """The rows of the table. Raises InputError unless 2 <= rank <= width."""
    if not 2 <= rank <= ENCODER.width:
        raise InputError(f"--rank is {rank}, expected 2 to {ENCODER.width} (the width of the encoder)")
    tlora = sorted({rank // 2, rank, min(2 * rank, ENCODER.width)})
    lora = sorted({1, max(2, rank // 2)})
    return [
        Setup("nothing", "nothing"),
        Setup("head only", "head"),
        *(Setup(f"TLoRA r={r}", "tlora", r) for r in tlora),
        *(Setup(f"LoRA r={r}", "lora", r) for r in lora),
        Setup("everything", "full"),
    ]


def further_row(args: argparse.Namespace) -> list[Setup]:
    """The row of --method at its usual rank. Raises InputError for what is not known or does not go together."""
    words = []
    for what in ("optimizer", "growth", "chain", "allocation"):
        word = getattr(args, what)
        if word is None:
            continue
        known = [other for other, chosen in WORDS.items() if chosen == what]
        if word not in known:
            raise InputError(f"--{what} is {word!r}, expected one of {', '.join(known)}")
        if args.method is None:
            raise InputError(f"--{what} is {word!r}, expected --method with it: it says how that row is trained")
        words.append(word)
    return [] if args.method is None else [named_setup("--method", "+".join([args.method, *words]))]


# --- 1. the gradients ----------------------------------------------------------------------------


def gradient_table(room: Room, seed: int = 0) -> list[dict[str, Any]]:
    """Hand gradients of a small encoder's loss against two oracles, in float64, by group of arrays; and against
    autograd's if that is the room.

    The point is a generic one: at B = 0 and alpha = 1 most mistakes in an adapter's gradient do not show.
    """
    from ...by_hand import encoder_fwd, loss_and_grads
    from ...by_hand.ops import cross_entropy_fwd

    config = EncoderConfig(width=6, layers=2, heads=2, hidden=5, time=4, features=3, classes=3)
    rng = np.random.default_rng(seed)
    model = attach(
        init_encoder(config, seed, np.float64), AdapterConfig(rank=2, targets=("query", "value"), layers=(1,))
    )
    model = model.with_params({n: np.asarray(a + 0.3 * rng.standard_normal(a.shape)) for n, a in model.params.items()})
    adapted = {f"{name}.{local}" for name in model.adapted for local in ("W", "b")}
    model = model.training(set(model.params) - adapted - {n for n in model.params if n.endswith((".A", ".C"))})
    x_NTI, labels_N = rng.standard_normal((3, 4, 3)), np.array([0, 2, 1])
    mask_NT = np.array([[True] * 4, [True, True, True, False], [True, False, True, True]])
    _, grads, _ = loss_and_grads(model, x_NTI, labels_N, mask_NT)
    others = {}
    if isinstance(room, ByAutograd):
        others["autograd"] = room.gradients(model, x_NTI, labels_N, mask_NT)

    # error over the largest entry of a group: the key's bias alone has a gradient that is zero by symmetry
    groups: dict[str, list[list[np.ndarray]]] = {}
    for name in sorted(model.trained):

        def loss(array: np.ndarray, name: str = name) -> np.ndarray:
            logits, _ = encoder_fwd(model.with_params({name: array}), x_NTI, mask_NT)
            return cross_entropy_fwd(logits, labels_N)[0]

        found = [grads[name], central_gradient(loss, model.params[name])]
        found += [complex_step_gradient(loss, model.params[name]), *(g[name] for g in others.values())]
        groups.setdefault(_group(name), []).append([g.ravel() for g in found])
    table = []
    for group, arrays in groups.items():
        hand, *oracles = (np.concatenate(found) for found in zip(*arrays, strict=True))
        names = ("central", "complex_step", *others)
        errors = {name: relative_error(hand, oracle) for name, oracle in zip(names, oracles, strict=True)}
        table.append({"arrays": group, "numbers": hand.size, **errors})
    return table


def _group(name: str) -> str:
    module, _, local = name.rpartition(".")
    part = module.rpartition(".")[2]
    if local in ("B", "alpha"):
        return f"TLoRA {local}"
    if "norm" in part:
        return "LayerNorm"
    if part in ("query", "key", "value", "output"):
        return "attention"
    return {"embed": "embedding", "position": "embedding", "head": "head"}.get(part, "feed-forward")


# --- 2 to 5. pretrain, shift, adapt, report -----------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 if the hand gradients agree with the oracles, 1 if not."""
    if args.seeds < 1:
        raise InputError(f"--seeds is {args.seeds}, expected at least 1")
    further = further_row(args)
    chosen, room = [*setups(args.rank), *further], chosen_room(args)
    shifted, upright = load_digits(args.shift), load_digits("none")
    from ..analysis import plots

    folder = output_folder(args.out, "demo.json", "demo.csv")

    def say(text: str) -> None:
        print(text, file=sys.stderr if args.json else sys.stdout, flush=True)

    gradients = gradient_table(room)
    say("Hand-written gradients of a small encoder in float64: largest error, relative to the largest entry")
    oracles = [name for name in ORACLES if name in gradients[0]]
    rows = [[g["arrays"], str(g["numbers"]), *(f"{g[name]:.0e}" for name in oracles)] for g in gradients]
    say(table(["arrays", "numbers", *(ORACLES[name][0] for name in oracles)], rows))
    right = all(g[name] < ORACLES[name][1] for g in gradients for name in oracles)

    results = experiment(args, room, chosen, upright, shifted, say)
    report = {"job": "demo", "room": room.name, "device": room.device, "shift": args.shift,
              "quick": args.quick, "seeds": results["seeds"],
              "gradients": gradients, "base": results["base"], "methods": results["rows"]}  # fmt: skip
    write_json(folder / "demo.json", report)
    write_csv(folder / "demo.csv", [{k: v for k, v in row.items() if k != "accuracies"} for row in results["rows"]])
    plots.demo_figures(folder, args.shift, results)
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        say("\n" + results_table(results["rows"]))
        say(f"Test accuracy, mean and standard deviation over {results['seeds']} seeds. Learning rates:")
        say(f"{results['search']}.")
        say("Weight decay 0.01 acts on all that trains, alpha included. The head stays frozen except in 'head only'")
        say("and 'everything'.")
        say(f"Results and figures: {folder}/")
    if not right:
        print("tlora-ref demo: the hand gradients do not agree with the oracles", file=sys.stderr)
    return 0 if right else 1


def experiment(args: Any, room: Room, chosen: list[Setup], upright: Any, shifted: Any, say: Any) -> dict[str, Any]:
    """Pretrain, show that attaching changes nothing, search learning rates, run every seed."""
    from ..runs import one_thread, run_all

    plan, seeds = (QUICK, min(2, args.seeds)) if args.quick else (FULL, args.seeds)
    with one_thread():
        base = pretrain(room, upright["train"], plan)
        base_accuracy = {
            name: room.evaluate(base, parts["test"].x, parts["test"].y)[1]
            for name, parts in (("upright", upright), ("shifted", shifted))
        }
        before = room.logits(base, shifted["test"].x)
        after = room.logits(attach(base, AdapterConfig(rank=args.rank)), shifted["test"].x)
    changed = float(np.abs(after - before).max())
    say(
        f"\nBase, {count(ENCODER, None).base:,} numbers, pretrained on {len(upright['train'].y):,} upright digits: "
        f"test accuracy {base_accuracy['upright']:.3f}; on {args.shift} digits {base_accuracy['shifted']:.3f}."
    )
    say(f"TLoRA attached, nothing trained yet: the logits change by {changed}.\n")

    adapting = [setup for setup in chosen if setup.kind != "nothing"]
    shared = (room, base, shifted)
    best = search(shared, adapting, plan)
    tasks = [Task(setup, best[setup], seed, plan.epochs, "test") for setup in adapting for seed in range(seeds)]
    outcomes = list(zip(tasks, run_all(adapt, shared, tasks, "seeds"), strict=True))

    rows, histories, examples = [], {}, {}
    for setup in chosen:
        runs = [outcome for task, outcome in outcomes if task.setup == setup]
        # of a run whose ranks, or whose chain, are decided on its way the end is what counts
        model = runs[0]["model"] if runs else setup.prepare(base, 0)
        decided = any(setup.chosen(what) for what in ("growth", "allocation"))
        formula = count(model.config, model.adapter, train_also=setup.also(base)) if decided else setup.counts(base)
        accuracies = [r["accuracy"] for r in runs] or [base_accuracy["shifted"]]
        rows.append({
            "method": setup.label, "kind": setup.kind, "rank": setup.rank,
            "trained_formula": formula.trained, "trained_counted": held(model).trained,
            "stored_bytes": formula.stored_bytes(), "learning_rate": best.get(setup),
            "accuracies": accuracies, "accuracy_mean": mean(accuracies),
            "accuracy_std": stdev(accuracies) if len(accuracies) > 1 else 0.0,
            "seconds": mean(r["seconds"] for r in runs) if runs else 0.0,
        })  # fmt: skip
        histories[setup.label] = [r["history"] for r in runs]
        examples[setup.label] = room.logits(model, shifted["test"].x).argmax(axis=-1)
    return {"rows": rows, "histories": histories, "predictions": examples, "base": base_accuracy, "seeds": seeds,
            "upright": upright["test"], "shifted": shifted["test"], "search": described(plan),
            "middle": f"TLoRA r={args.rank}",
            "upright_predictions": room.logits(base, upright["test"].x).argmax(axis=-1)}  # fmt: skip


def results_table(rows: list[dict[str, Any]]) -> str:
    """The table of results for a terminal."""
    header = ["method", "trained", "counted", "stored", "lr", "accuracy", "std", "seconds"]
    return table(header, [
        [r["method"], f"{r['trained_formula']:,}", f"{r['trained_counted']:,}", size(r["stored_bytes"]),
         "" if r["learning_rate"] is None else f"{r['learning_rate']:g}",
         f"{r['accuracy_mean']:.3f}", f"{r['accuracy_std']:.3f}", f"{r['seconds']:.1f}"]
        for r in rows
    ])  # fmt: skip

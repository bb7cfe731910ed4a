"""Audit the TLoRA paper: measure every claim on the digits or by arithmetic, and judge it by a stated rule.

The paper's figures are drawn again from these runs.

TLoRA, LoRA (of the same rank, and of the same count) and full fine-tuning adapt a four-layer encoder from upright to
turned digits, over several seeds, each with the same search over learning rates; beside them TLoRA with alpha fixed
at 1 and with dropout. Writes audit.html (one page, opens from disk), audit.json and the figures as PNG and SVG.
Finished runs are kept in the output folder: an interrupted audit goes on where it stopped.

With its few seeds the default measures everything and judges only what arithmetic decides. A verdict on what was
trained needs 30 seeds, and the same answer from runs of half the length, which such an audit makes as well:

    python -m tlora_ref audit --seeds 30 --epochs 60
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

import numpy as np

from ...config import TrainConfig
from ...counts import held
from ...files import write_atomic
from ...model import Model
from ...shapes import InputError
from ...tables import output_folder, table, write_json
from ..analysis.claims import judge
from ..analysis.measures import RATES, TIME, Run, measure
from ..analysis.misprints import misprints, misprints_table
from ..analysis.norms import factor_norms
from ..analysis.subspace import isotropic_share
from ..analysis.updates import update
from ..analysis.verdicts import CANNOT, MIN_SEEDS, Row, in_words
from ..bench.stored import overhead
from ..data import SHIFTS, load_digits
from ..digits import ENCODER, FULL, QUICK, Plan, Setup, Shared, Task, Variant, fingerprint, pretrain
from ..learning_rates import described, search
from ..rooms import ByHand
from ..runs import one_thread, with_progress
from ..study import matched_rate, study

DEEP = replace(ENCODER, layers=4)
"""The encoder of compare and demo with twice the layers: the paper's figures are about differences between layers."""

BRIEF = replace(QUICK, pretrain=8, epochs=4)
"""The plan of --quick: shorter than the other jobs', as the encoder is deeper."""

RANK, EQUAL = 16, 4
"""TLoRA's rank, and the rank at which LoRA trains as many numbers at width 32: 2 d r = 256 for r^2 + 1 = 257."""


# LoRA's scale is 1/2, that of the released control (lora_alpha 16 at r = 32): so that leaving it out shows
SETUPS = {
    "tlora": Variant("TLoRA", "tlora", RANK),
    "lora": Variant("LoRA", "lora", RANK, lora_alpha=RANK / 2),
    "lora_equal": Variant("LoRA, equal count", "lora", EQUAL, lora_alpha=EQUAL / 2),
    "full": Variant("everything", "full"),
    "alpha_own": Variant("TLoRA, alpha = 1", "tlora", RANK, learn_alpha=False),
    "dropout": Variant("TLoRA, dropout 0.5", "tlora", RANK, dropout=0.5),
}
COUNTED = ("tlora", "lora", "lora_equal", "full")
MATRICES = tuple(f"layers.{layer}.{kind}" for kind in ("query", "value") for layer in range(DEEP.layers))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``audit``."""
    parser.add_argument(
        "--shift", default="rot90", help=f"What happens to the digits: {', '.join(SHIFTS)}. Default: rot90."
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=10,
        help=f"How many runs each setup gets; a verdict on what was trained needs {MIN_SEEDS}. Default: 10.",
    )
    parser.add_argument(
        "--epochs", type=int, help=f"Epochs of a run. Default: {FULL.epochs}, with --quick {BRIEF.epochs}."
    )
    parser.add_argument(
        "--quick", action="store_true", help="Make short runs, with at most three seeds and two learning rates."
    )
    parser.add_argument("--json", action="store_true", help="Print the results as JSON, not as a table.")
    parser.add_argument(
        "--out", default="out/audit", help="The folder for page, results, figures and runs. Default: out/audit."
    )


def run(args: argparse.Namespace) -> int:
    """Run the audit; 0 when it is done, whatever the verdicts."""
    if args.seeds < 2:
        raise InputError(f"--seeds is {args.seeds}, expected at least 2: controls compare runs that differ in the seed")
    plan, seeds = (BRIEF, min(3, args.seeds)) if args.quick else (FULL, args.seeds)
    plan = plan if args.epochs is None else replace(plan, epochs=args.epochs)
    if plan.epochs < 2:
        raise InputError(f"--epochs is {args.epochs}, expected at least 2: runs of half the length stand beside them")
    upright, shifted = load_digits("none"), load_digits(args.shift)
    folder = output_folder(args.out, "audit.json", "audit.html")
    with one_thread():
        base = pretrain(ByHand(), upright["train"], plan, DEEP)
    store = folder / f"runs-{args.shift}-{fingerprint(base)}.jsonl"
    shared = (ByHand(), base, shifted)
    # with fewer seeds there is no verdict that longer training could change
    lengths = [plan.epochs, plan.epochs // 2] if seeds >= MIN_SEEDS else [plan.epochs]
    rates, runs = experiment(shared, plan, seeds, lengths, store)
    found = runs[plan.epochs]
    measured, *others = (_measured(args.shift, base, runs[epochs], epochs, rates) for epochs in lengths)
    shorter = others[0] if others else None
    if shorter is not None:
        del shorter["cosine"]["per_matrix"]  # which only the figure needs
    claims = judge(measured, shorter)
    report = {"job": "audit", "shift": args.shift, "quick": args.quick, "seeds": seeds,
              "rows": [asdict(claim) for claim in claims], "misprints": [asdict(m) for m in misprints()],
              "measured": measured, "shorter": shorter}  # fmt: skip
    with one_thread():
        write_json(folder / "audit.json", report)
        write_page(folder, args.shift, measured, claims, base, found, plan)
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    print(results_table(report["rows"]))
    print()
    print(summary(report))
    print()
    print(logs_table(report["rows"]))
    print()
    print("Misprints, which refute nothing:")
    print(misprints_table(misprints()))
    print()
    print(
        f"Mean and Student's 95 % interval over {seeds} seeds; p after Holm's correction. Rules, figures and numbers:"
    )
    print(f"{folder}/audit.html. Results: {folder}/audit.json")
    return 0


def _measured(
    shift: str, base: Model, found: Mapping[str, Sequence[Run]], epochs: int, rates: Mapping[str, float]
) -> dict[str, Any]:
    with one_thread():
        return measure(base, found) | {
            "data": f"{shift} digits",
            "equal_rank": EQUAL,
            "epochs": epochs,
            "learning_rates": dict(rates),
            "counts": {key: held(SETUPS[key].prepare(base, 0)).trained for key in COUNTED},
            "overhead": overhead(),
        }


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal."""
    lines = [
        [r["key"], "" if r["n"] is None else str(r["n"]), r["figure"], "" if r["p"] is None else f"{r['p']:.2g}",
         in_words(r)]
        for r in rows
    ]  # fmt: skip
    return table(["claim", "n", "key figure", "p", "verdict"], lines)


def logs_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What was measured beside the same quantities of the released logs."""
    logs = [row["logs"] for row in rows if row["logs"]]
    return table(["quantity", "here", "released logs"], [[x["quantity"], x["here"], x["released"]] for x in logs])


def summary(report: Mapping[str, Any]) -> str:
    """The verdicts in words."""
    keys: dict[str, list[str]] = {}
    for row in report["rows"]:
        keys.setdefault(row["verdict"], []).append(row["key"])
    parts = [f"{verdict[0].upper()}{verdict[1:]}: {', '.join(found)}." for verdict, found in keys.items()]
    if report["seeds"] < MIN_SEEDS and CANNOT in keys:
        parts.append(
            f"{report['seeds']} seeds are too few for a verdict on what was trained: {MIN_SEEDS} are asked for."
        )
    return "\n".join(fill(part, 118, break_on_hyphens=False) for part in parts)


# --- the runs ------------------------------------------------------------------------------------


def observe(shared: Shared, task: Task) -> dict[str, Any]:
    """One run with the validation loss of every epoch: accuracy, history, and what it trained at query and value."""
    room, base, parts = shared
    config = TrainConfig(epochs=task.epochs, batch_size=64, lr=task.lr, seed=task.seed)
    validation = (parts["validation"].x, parts["validation"].y)
    start = task.setup.prepare(base, task.seed)
    model, history = room.train(start, parts["train"].x, parts["train"].y, config, validation=validation)
    kept = {name for name in model.trained if name.rpartition(".")[0] in MATRICES and not name.endswith(".b")}
    return {
        "accuracy": room.evaluate(model, parts[task.part].x, parts[task.part].y)[1],
        "train_loss": room.evaluate(model, parts["train"].x, parts["train"].y)[0],
        "history": asdict(history),
        "trained": {name: model.params[name].tolist() for name in sorted(kept)},
    }


def experiment(
    shared: Shared, plan: Plan, seeds: int, lengths: Sequence[int], store: Path
) -> tuple[dict[str, float], dict[int, dict[str, list[Run]]]]:
    """The learning rate of every setup; and by their epochs, by setup, its runs over the seeds."""
    best = search(shared, list(SETUPS.values()), plan, store)
    rates = {key: best[setup] for key, setup in SETUPS.items()}
    found = study(shared, SETUPS, rates, seeds, lengths, store, observe, partial(_run, shared[1]))
    return rates | {"alpha_matched": matched_rate(rates["tlora"], found[lengths[0]]["tlora"])}, found


def _run(base: Model, setup: Setup, seed: int, result: Mapping[str, Any]) -> Run:
    model = setup.prepare(base, seed)
    arrays = {n: np.asarray(values, dtype=model.params[n].dtype) for n, values in result["trained"].items()}
    return Run(result["accuracy"], result["train_loss"], result["history"], model.with_params(arrays))


# --- the page ------------------------------------------------------------------------------------


def write_page(
    folder: Path,
    shift: str,
    measured: Mapping[str, Any],
    claims: Sequence[Row],
    base: Model,
    found: Mapping[str, Sequence[Run]],
    plan: Plan,
) -> None:
    """The figures, and the page that holds them."""
    from ..analysis import audit_plots as plots
    from ..analysis.page import Plate, page

    first, name = found["tlora"][0].model, MATRICES[0]
    where, histories = "layer 0, query", {key: [run.history for run in runs] for key, runs in found.items()}
    factors = {"W0": base.params[f"{name}.W"], **{k: first.params[f"{name}.{k}"] for k in "ABC"}}
    dW = {key: update(found[key][0].model, base, name) for key in ("tlora", "lora")}
    W0 = base.params[f"{name}.W"].astype(np.float64)
    rho = measured["relative_norm"]
    rhos = (fmean(rho["tlora"]), fmean(rho["lora"]))
    row = {claim.key: claim for claim in claims}
    drifts = {"gradient descent": "gd", "momentum": "momentum", "AdamW": "adamw"}
    drifts = {name: measured["conserved"]["drift"][key] for name, key in drifts.items()}
    ratios = ", ".join(f"{name} {100 * v[-1] / v[-2]:.0f} % of its drift" for name, v in drifts.items())

    def said(key: str) -> str:
        reason = f", {row[key].reason}" if row[key].reason else ""
        return f"{key[0].upper()}{key[1:]}: {row[key].verdict} ({row[key].figure}{reason})."

    drawn: list[tuple[int, str, str, str, Callable[[Path], None]]] = [
        (2, "Trained numbers, and what they buy", "The paper's counts are those of RoBERTa-large.",
         said("trained counts") + " " + said("comparable accuracy"),
         lambda path: plots.counts_and_accuracy(path, measured)),
        (3, "Training and validation loss", "The paper shows TLoRA on MRPC.",
         f"Mean over {measured['seeds']} seeds, band from least to most, {plan.epochs} epochs on {shift} digits. "
         + said("no overfitting"),
         lambda path: plots.losses(path, {k: histories[k] for k in ("tlora", "lora", "full")})),
        (4, "Entries of W0, A, B and C, with their normal fits", "The paper reads a Gaussian in B.",
         said("B Gaussian-like"), lambda path: plots.histograms(path, factors, where)),
        (5, "Norm of B per layer and epoch", "The paper shows one run.",
         said("norms settle") + " " + said("B over layers"),
         lambda path: plots.per_layer(path, histories["tlora"], "B_norm", r"$\|B\|_F$")),
        (6, "alpha per layer and epoch", "The paper shows one run, where layers always differ.",
         said("alpha over layers") + " " + said("alpha of q and v") + " " + said("alpha and B"),
         lambda path: plots.per_layer(path, histories["tlora"], "alpha", r"$\alpha$")),
        (7, "Spectral norms of A, B and C per layer", "The paper's heat map, one run.",
         "A and C never change: their norms are those of the draw. Only B's carry something learned; ± is the standard "
         "deviation between seeds.",
         lambda path: plots.norm_table(path, [factor_norms(run.model) for run in found["tlora"]])),
        (8, "Eigenvalues of the adapted matrix and of the update",
         "The paper shows the real parts of the adapted ones.",
         said("eigenvalues like LoRA's"), lambda path: plots.spectra(path, W0, dW, where)),
        (9, "Elementwise difference of the two adapted matrices",
         "The paper shows the difference alone.",
         "W0 cancels: the difference of the adapted matrices is that of the updates. Its norm is "
         f"{fmean(measured['relative_difference']['update']):.2f} times that of LoRA's update, mean over matrices and "
         "seeds.",
         lambda path: plots.differences(path, dW["tlora"], dW["lora"], where)),
        (10, "Cosine similarity of TLoRA and LoRA per layer", "The paper shows the cosine of the adapted matrices.",
         said("cosine as published") + " " + said("cosine of the updates"),
         lambda path: plots.cosines(path, measured["cosine"]["per_matrix"], rhos)),
        (11, "alpha² − ||B||² along training, which small steps of gradient descent conserve", "Not in the paper.",
         f"One layer learning a linear map. A quarter of the learning rate leaves {ratios}.",
         lambda path: plots.conservation(path, RATES, TIME)),
    ]  # fmt: skip
    plates = []
    for number, title, paper, here, draw in with_progress(drawn, len(drawn), "figures"):
        path = folder / f"figure-{number:02}"
        draw(path)
        plates.append(Plate(number, title, path.with_suffix(".svg"), paper, here))
    labels = {key: setup.label for key, setup in SETUPS.items()} | {"alpha_matched": "TLoRA, alpha = 1, matched step"}
    rates = "; ".join(
        f"{labels[key]} {rate:.3g} ({fmean(measured['accuracy'][key]):.3f})"
        for key, rate in measured["learning_rates"].items()
    )
    setting = {
        "model": f"post-LayerNorm encoder of {DEEP.layers} layers, width {DEEP.width}; query and value matrices "
        "adapted, "
        "head frozen",
        "data": f"scikit-learn's 1,797 handwritten digits; pretrained upright, adapted to {shift}; "
        "1,197 to train, 240 to validate, 360 to test",
        "training": "AdamW, weight decay 0.01, linear decay after 6 % warm-up, "
        f"{plan.epochs} epochs, batches of 64, no dropout but where it says so; LoRA's scale is 1/2, as in the "
        "released "
        "control",
        "learning rates": f"{described(plan)}; with the mean test accuracy they led to: {rates}",
        "seeds": f"{measured['seeds']}; each has its own A, C and batches, and all methods share a seed's batches",
        "intervals": "Student's, 95 %, over seeds; differences are paired by seed",
        "verdicts": f"from {MIN_SEEDS} seeds on, p after Holm's correction over all claims that seeds decide, and the "
        "same from runs of half the length",
    }
    lead = [
        "T. Islam, TLoRA: Tri-Matrix Low-Rank Adaptation of Large Language Models, arXiv 2504.18735. "
        "W' = W0 + alpha A B C, with A and C random and frozen, B and alpha trained.",
        "Each row is a claim in our own words, what was measured about it, a verdict, and why. No verdict is written "
        "by hand: each follows from the measurements by the rule in its row. What is measured, is measured on a small "
        "encoder and handwritten digits; a verdict with “here” speaks of that scale only. Figures of the released logs "
        "are the paper's own scale, one run a task.",
    ]
    c, d, r = measured["captured"], measured["width"], measured["rank"]
    theorem = [
        "For every fixed D and random, independent A and C whose columns (rows) have a law that no rotation changes, "
        "as Gaussian ones do, the expected share of ||D||² that some alpha A B C holds is r² / (d_in d_out).",
        "Proof: with the orthogonal projectors the share is ||P_A D P_C||² / ||D||². E[P_A] commutes with every "
        "rotation, so it is a multiple of the identity; its trace is r, so it is r / d_in. In the same way E[P_C] is "
        "r / d_out. A and C are independent: E||P_A D P_C||² = tr(E[P_A] D E[P_C] Dᵀ) = r² / (d_in d_out) ||D||².",
        f"Here that is {isotropic_share(d, d, r):.3f}. Measured, mean over matrices and seeds: {fmean(c['lora']):.3f} "
        f"of LoRA's update, {fmean(c['full']):.3f} of everything's, {fmean(c['isotropic']):.3f} of random ones; the "
        f"best matrix of rank {r} would hold {fmean(c['best']):.2f} of everything's. That LoRA's update does not fit "
        "is arithmetic, and no fault of training: TLoRA has to find another update that does the job. For "
        f"RoBERTa-large at r = 32 the share is {isotropic_share(1024, 1024, 32):.2g}.",
    ]
    text = page("The TLoRA paper, audited", lead, claims, theorem, misprints(), plates, setting)
    write_atomic(folder / "audit.html", text)

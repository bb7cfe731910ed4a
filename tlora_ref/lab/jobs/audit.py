"""Audit the TLoRA paper: measure every claim on the digits or by arithmetic, and judge it by a stated rule.

The paper's figures are drawn again from these runs.

TLoRA, LoRA (of the same rank, and of the same count) and full fine-tuning adapt a four-layer encoder from upright to
turned digits, over several seeds, each with the same search over learning rates; beside them TLoRA with alpha fixed
at 1, with the other draw of A and C, and with dropout. Writes audit.html (one page, opens from disk), audit.json and
the figures as PNG and SVG. Finished runs are kept in the output folder: an interrupted audit goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ...config import AdapterConfig, TrainConfig
from ...counts import held
from ...files import write_atomic
from ...model import Model
from ...shapes import InputError
from ...tables import output_folder, table, write_json
from ..analysis.claims import judge
from ..analysis.measures import RATES, TIME, Run, mean_alpha, measure
from ..analysis.norms import factor_norms
from ..analysis.updates import update
from ..analysis.verdicts import Claim
from ..data import SHIFTS, Part, load_digits
from ..digits import ENCODER, FULL, QUICK, Plan, Shared, Task, Way, fingerprint, pretrain, search
from ..rooms import ByHand
from ..runs import one_thread, run_all, with_progress

DEEP = replace(ENCODER, layers=4)
"""The encoder of compare and demo with twice the layers: the paper's figures are about differences between layers."""

BRIEF = replace(QUICK, pretrain=8, epochs=4)
"""The plan of --quick: shorter than the other jobs', as the encoder is deeper."""

RANK, EQUAL = 16, 4
"""TLoRA's rank, and the rank at which LoRA trains as many numbers at width 32: 2 d r = 256 for r^2 + 1 = 257."""


@dataclass(frozen=True)
class Variant(Way):
    """A way, with what the audit changes about it."""

    init: str = "released"
    dropout: float = 0.0
    lora_alpha: float | None = None
    learn_alpha: bool = True

    def adapter(self, seed: int = 0) -> AdapterConfig | None:
        """The adapter it attaches, if any."""
        plain = super().adapter(seed)
        changes = {"init": self.init, "dropout": self.dropout, "lora_alpha": self.lora_alpha}
        return None if plain is None else replace(plain, **changes)

    def prepare(self, base: Model, seed: int) -> Model:
        """The base, made ready; without alpha among what trains if it is to stay 1."""
        model = super().prepare(base, seed)
        return model.training({name for name in model.trained if self.learn_alpha or not name.endswith(".alpha")})


# LoRA's scale is 1/2, that of the released control (lora_alpha 16 at r = 32): so that leaving it out shows
WAYS = {
    "tlora": Variant("TLoRA", "tlora", RANK),
    "lora": Variant("LoRA", "lora", RANK, lora_alpha=RANK / 2),
    "lora_equal": Variant("LoRA, equal count", "lora", EQUAL, lora_alpha=EQUAL / 2),
    "full": Variant("everything", "full"),
    "alpha_own": Variant("TLoRA, alpha = 1", "tlora", RANK, learn_alpha=False),
    "fan_in": Variant("TLoRA, fan-in draw", "tlora", RANK, init="fan_in"),
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
        help="How many runs each setup gets; a verdict needs at least three. Default: 10.",
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
    upright, shifted = load_digits("none"), load_digits(args.shift)
    folder = output_folder(args.out, "audit.json", "audit.html")
    plan, seeds = (BRIEF, min(3, args.seeds)) if args.quick else (FULL, args.seeds)
    with one_thread():
        base = pretrain(ByHand(), upright["train"], plan, DEEP)
    store = folder / f"runs-{args.shift}-{fingerprint(base)}.jsonl"
    rates, found = experiment((ByHand(), base, shifted), plan, seeds, store)
    with one_thread():
        measured = measure(base, found) | {
            "equal_rank": EQUAL,
            "epochs": plan.epochs,
            "learning_rates": rates,
            "counts": {key: held(WAYS[key].prepare(base, 0)).trained for key in COUNTED},
            "rate_zero_change": _at_rate_zero(base, shifted["train"]),
        }
        claims = judge(measured)
        report = {"job": "audit", "shift": args.shift, "quick": args.quick, "seeds": seeds,
                  "rows": [asdict(claim) for claim in claims], "measured": measured}  # fmt: skip
        write_json(folder / "audit.json", report)
        write_page(folder, args.shift, measured, claims, base, found, plan)
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    print(results_table(report["rows"]))
    print()
    print(
        f"Mean and 95 % bootstrap interval over {seeds} seeds; the rule behind every verdict, figures and numbers are"
    )
    print(f"on the page: {folder}/audit.html. Results: {folder}/audit.json")
    return 0


def results_table(rows: Sequence[Mapping[str, str]]) -> str:
    """The table for a terminal."""
    return table(["claim", "key figure", "verdict"], [[r["key"], r["figure"], r["verdict"]] for r in rows])


# --- the runs ------------------------------------------------------------------------------------


def observe(shared: Shared, task: Task) -> dict[str, Any]:
    """One run with the validation loss of every epoch: accuracy, history, and what it trained at query and value."""
    room, base, parts = shared
    config = TrainConfig(epochs=task.epochs, batch_size=64, lr=task.lr, seed=task.seed)
    validation = (parts["validation"].x, parts["validation"].y)
    start = task.way.prepare(base, task.seed)
    model, history = room.train(start, parts["train"].x, parts["train"].y, config, validation=validation)
    kept = {name for name in model.trained if name.rpartition(".")[0] in MATRICES and not name.endswith(".b")}
    return {
        "accuracy": room.evaluate(model, parts[task.part].x, parts[task.part].y)[1],
        "train_loss": room.evaluate(model, parts["train"].x, parts["train"].y)[0],
        "history": asdict(history),
        "trained": {name: model.params[name].tolist() for name in sorted(kept)},
    }


def experiment(shared: Shared, plan: Plan, seeds: int, store: Path) -> tuple[dict[str, float], dict[str, list[Run]]]:
    """(learning rate, runs over the seeds) of every way, "alpha_matched" among them: alpha fixed at 1, with TLoRA's
    learning rate times the mean alpha along TLoRA's runs, so that a step of the optimizer moves alpha B as far."""
    base = shared[1]
    searched = [way for key, way in WAYS.items() if key != "fan_in"]
    best = search(shared, searched, plan, store)
    best[WAYS["fan_in"]] = best[WAYS["tlora"]]
    rates = {key: best[way] for key, way in WAYS.items()}

    def runs(ways: Mapping[str, Way], label: str) -> dict[str, list[Run]]:
        tasks = [Task(way, rates[key], seed, plan.epochs, "test") for key, way in ways.items() for seed in range(seeds)]
        results = iter(run_all(observe, shared, tasks, label, store=store))
        return {key: [_run(base, way, seed, next(results)) for seed in range(seeds)] for key, way in ways.items()}

    found = runs(WAYS, "runs")
    rates["alpha_matched"] = rates["tlora"] * mean_alpha(found["tlora"])
    return rates, found | runs({"alpha_matched": WAYS["alpha_own"]}, "alpha = 1")


def _run(base: Model, way: Way, seed: int, result: Mapping[str, Any]) -> Run:
    model = way.prepare(base, seed)
    arrays = {n: np.asarray(values, dtype=model.params[n].dtype) for n, values in result["trained"].items()}
    return Run(result["accuracy"], result["train_loss"], result["history"], model.with_params(arrays))


# --- measured beside the runs ---------------------------------------------------------------------


def _at_rate_zero(base: Model, train: Part) -> float:
    """The largest change of a trained number in an epoch at learning rate 0."""
    model = WAYS["tlora"].prepare(base, 0)
    after, _ = ByHand().train(model, train.x[:256], train.y[:256], TrainConfig(epochs=1, batch_size=64, lr=0.0))
    return max(float(np.abs(after.params[name] - model.params[name]).max()) for name in model.trained)


# --- the page ------------------------------------------------------------------------------------


def write_page(
    folder: Path,
    shift: str,
    measured: Mapping[str, Any],
    claims: Sequence[Claim],
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
        return f"{key[0].upper()}{key[1:]}: {row[key].verdict} ({row[key].figure})."

    drawn: list[tuple[int, str, str, str, Callable[[Path], None]]] = [
        (2, "Trained numbers, and what they buy", "The paper's counts are those of RoBERTa-large.",
         said("trained counts") + " " + said("comparable accuracy"),
         lambda path: plots.counts_and_accuracy(path, measured)),
        (3, "Training and validation loss", "The paper shows TLoRA on MRPC.",
         f"Mean over {measured['seeds']} seeds, band from least to most, {plan.epochs} epochs on {shift} digits.",
         lambda path: plots.losses(path, {k: histories[k] for k in ("tlora", "lora", "full")})),
        (4, "Entries of W0, A, B and C, with their normal fits", "The paper reads a Gaussian in B.",
         said("B Gaussian-like"), lambda path: plots.histograms(path, factors, where)),
        (5, "Norm of B per layer and epoch", "The paper shows one run.",
         said("norms settle"), lambda path: plots.per_layer(path, histories["tlora"], "B_norm", r"$\|B\|_F$")),
        (6, "alpha per layer and epoch", "The paper shows one run, where layers always differ.",
         said("alpha over layers") + " " + said("alpha of q and v"),
         lambda path: plots.per_layer(path, histories["tlora"], "alpha", r"$\alpha$")),
        (7, "Norms of A, B and C per layer", "The paper's heat map, one run.",
         "A and C never change: their norms are those of the draw, sqrt(d_in / 3) and sqrt(r / 3). Only B's carry "
         "something learned; ± is the standard deviation between seeds.",
         lambda path: plots.norm_table(path, [factor_norms(run.model) for run in found["tlora"]])),
        (8, "Eigenvalues of the adapted matrix and of the update", "The paper shows the left panel's eigenvalues only.",
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
    labels = {key: way.label for key, way in WAYS.items()} | {"alpha_matched": "TLoRA, alpha = 1, matched step"}
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
        "learning rates": f"the best of {', '.join(f'{lr:g}' for lr in plan.rates)} on validation images after "
        f"{plan.search} epochs, with the mean test accuracy they led to: {rates}",
        "seeds": f"{measured['seeds']}; each has its own A, C and batches, and all methods share a seed's batches",
        "intervals": "95 %, percentile bootstrap over seeds; differences are paired by seed",
    }
    lead = [
        "T. Islam, TLoRA: Tri-Matrix Low-Rank Adaptation of Large Language Models, arXiv 2504.18735. "
        "W' = W0 + alpha A B C, with A and C random and frozen, B and alpha trained.",
        "Each row is a claim in our own words, what was measured about it, a verdict, and why. No verdict is written "
        "by "
        "hand: each follows from the measurements by the rule in its row. What is measured, is measured on a small "
        "encoder and handwritten digits; a verdict with “here” speaks of that scale only.",
    ]
    write_atomic(folder / "audit.html", page("The TLoRA paper, audited", lead, claims, plates, setting))

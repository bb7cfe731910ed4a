"""The audit: its rules on constructed measurements, and the job end to end."""

import copy
import json
import re
from base64 import b64decode
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import tlora_ref
from tlora_ref.__main__ import JOBS, main
from tlora_ref.init import init_encoder
from tlora_ref.lab.analysis.claims import CLAIMS, judge
from tlora_ref.lab.analysis.misprints import misprints, misprints_table
from tlora_ref.lab.analysis.page import page
from tlora_ref.lab.analysis.statistics import mean_interval
from tlora_ref.lab.analysis.verdicts import (
    CANNOT,
    HOLDS,
    HOLDS_HERE,
    HOLDS_NOT,
    HOLDS_NOT_HERE,
    LEVEL,
    MIN_SEEDS,
    VERDICTS,
    Claim,
    Evidence,
    apart,
    beyond_chance,
    rows,
    within,
)
from tlora_ref.lab.bench.stored import overhead
from tlora_ref.lab.data import load_digits
from tlora_ref.lab.jobs import audit
from tlora_ref.lab.jobs.audit import DEEP, MATRICES, SETUPS, logs_table, results_table, summary
from tlora_ref.paper import CLAIMS as CLAIMED

pytestmark = pytest.mark.slow  # simulated audits, and one of 30 seeds

PAGE = Path(tlora_ref.__file__).parent.parent / "tutorials" / "paper_and_audit.md"
SEEDS = 30
UP = [0.1, 0.2, 0.15, 0.12, 0.18, 0.11]
DOWN, ACROSS = [-value for value in UP], [-3, 2, 5, -6, 1, 2.0]


# --- the rules -----------------------------------------------------------------------------------


def says(evidence):
    """What seeds say at 5 %, uncorrected."""
    return evidence.holds if evidence.p < 0.05 else None


def test_the_rules_on_constructed_values():
    assert [says(within(values, low=0)) for values in (UP, DOWN, ACROSS)] == [True, False, None]
    assert [says(within(values, high=0)) for values in (UP, DOWN, ACROSS)] == [False, True, None]
    assert says(within(UP, 0.05, 0.3)) is True
    assert says(within(UP, 0.5, 0.9)) is says(within(UP, 0.01, 0.05)) is False
    assert says(within(UP, 0.14, 0.9)) is None
    assert [says(apart(values)) for values in (UP, DOWN, ACROSS)] == [True, True, None]
    assert (says(beyond_chance(0.01, 5)), says(beyond_chance(0.2, 5))) == (True, None)
    assert within(UP, low=0).n == apart(UP).n == 6
    assert within([1.0], low=0) is apart([1.0]) is None


@pytest.mark.parametrize("seed", range(40))
def test_p_is_below_five_percent_exactly_where_the_interval_leaves_the_bound(seed):
    r = np.random.default_rng(seed)
    values = list(r.standard_normal(6) + r.uniform(-2, 2))
    low, high = sorted(r.uniform(-2, 2, 2))
    found = mean_interval(values)
    for bounds, inside, outside in (
        ((low, np.inf), found.low > low, found.high < low),
        ((-np.inf, high), found.high < high, found.low > high),
        ((low, high), low < found.low and found.high < high, found.high < low or found.low > high),
    ):
        assert says(within(values, *bounds)) == (True if inside else False if outside else None)
    assert says(apart(values)) == (True if found.low > 0 or found.high < 0 else None)


def claim(key, p, holds=True, n=SEEDS):
    return Claim(key, "m", "f", "r", "w", Evidence(holds, p, n))


KEYS = list(CLAIMED)


def test_a_verdict_needs_thirty_seeds_a_corrected_p_and_the_same_from_half_the_length():
    def verdict(one, half):
        (row,) = rows([one], None if half is None else [half])
        return row.verdict, row.reason

    sure, unsure = claim(KEYS[0], 0.01), claim(KEYS[0], 0.06)
    assert verdict(sure, sure) == (HOLDS_HERE, "")
    assert verdict(claim(KEYS[0], 0.01, False), claim(KEYS[0], 0.04, False)) == (HOLDS_NOT_HERE, "")
    assert verdict(unsure, sure) == (CANNOT, "chance could do it")
    for half in (None, unsure, claim(KEYS[0], 0.01, False)):
        assert verdict(sure, half) == (CANNOT, "longer training could change it")
    few = claim(KEYS[0], 0.0001, n=MIN_SEEDS - 1)
    assert verdict(few, few) == (CANNOT, "29 of 30 seeds")
    settled = Claim(KEYS[0], "m", "f", "r", "w", settled=False)
    assert verdict(settled, None) == (HOLDS_NOT, "")
    assert verdict(Claim(KEYS[0], "m", "f", "r", "w", unjudged="no data"), None) == (CANNOT, "no data")


def test_holms_correction_is_over_the_claims_that_seeds_decide():
    # 0.01 * 4, 0.014 * 3, 0.03 * 2, 0.9: Holm; a claim of arithmetic is none of the four
    claims = [claim(key, p) for key, p in zip(KEYS, (0.03, 0.01, 0.9, 0.014), strict=False)]
    claims.append(Claim(KEYS[4], "m", "f", "r", "w", settled=True))
    found = rows(claims, claims)
    assert [row.p for row in found] == [*map(pytest.approx, (0.06, 0.04, 0.9, 0.042)), None]
    assert [row.verdict for row in found] == [CANNOT, HOLDS_HERE, CANNOT, HOLDS_HERE, HOLDS]


def test_at_most_one_audit_in_twenty_holds_a_wrong_verdict_where_nothing_is_there():
    r, audits, keys = np.random.default_rng(3), 600, KEYS[:8]
    wrong, uncorrected = 0, 0
    for _ in range(audits):
        claims = [Claim(key, "m", "f", "r", "w", apart(list(r.standard_normal(MIN_SEEDS)))) for key in keys]
        wrong += any(row.verdict != CANNOT for row in rows(claims, claims))
        uncorrected += any(c.evidence.p < LEVEL for c in claims)
    assert wrong / audits < 0.05 + 3 * (0.05 * 0.95 / audits) ** 0.5
    assert uncorrected / audits > 0.25


# --- the rows ------------------------------------------------------------------------------------


def around(value, spread=0.01, n=SEEDS):
    """One value per seed: ``value`` on average."""
    return [value + spread * (i - (n - 1) / 2) for i in range(n)]


def measurements():
    """As jobs/audit.py makes them, with numbers that hold no claim in particular."""
    rng = np.random.default_rng(0)
    pattern = np.array([1.0, 1.5, 0.5, 2.0])
    likeness = {
        f"{key}{suffix}": around(value)
        for key in ("published", "adapted", "update")
        for suffix, value in (("", 0.2), ("_control", 0.0), ("_ceiling", 0.8))
    }

    def layered():
        return {kind: (pattern + 0.1 * rng.standard_normal((SEEDS, 4))).tolist() for kind in ("query", "value")}

    return {
        "data": "rot90 digits", "seeds": SEEDS, "matrices": 8, "width": 32, "rank": 16, "equal_rank": 4,
        "counts": {"tlora": 2_056, "lora": 8_192, "lora_equal": 2_048, "full": 35_114},
        "accuracy": {key: around(0.9) for key in (*SETUPS, "alpha_matched")},
        "distribution": {key: around(0.3) for key in ("skewness", "excess_kurtosis", "gaussian_share",
                                                      "rejected_share", "projected_kurtosis", "full_kurtosis")},
        "late_growth": around(0.02, 0.001),
        "schedule_share": 0.06,
        "alpha": layered(),
        "B_norm": layered(),
        "alpha_B_correlation": around(0.5),
        "alpha_mean": 1.3,
        "conserved_end": around(-2.0),
        "norm_ratio": {"spectral": around(2.0), "frobenius": around(2.0)},
        "relative_norm": {key: around(0.1, 0.001) for key in ("tlora", "lora", "full")},
        "effective_rank": {key: around(5.0) for key in ("tlora", "lora", "full")},
        "eigenvalues": {key: around(v) for key, v in (("adapted", 0.3), ("adapted_control", 0.5),
                        ("adapted_ceiling", 0.1), ("update", 0.3), ("update_control", 0.5), ("update_ceiling", 0.1),
                        ("positive_tlora", 0.5), ("positive_lora", 0.5))},
        "cosine": {**likeness, **{key: around(0.1) for key in ("with_scale", "with_transpose", "tlora_ceiling",
                                                               "full_lora", "overlap")}, "overlap_random": 0.5},
        "relative_difference": {"adapted": around(0.4), "update": around(1.1)},
        "captured": {key: around(0.25) for key in ("lora", "full", "isotropic", "best")},
        "conserved": {"rates": [0.1, 0.05], "time": 1.0,
                      "drift": {"gd": [0.2, 0.1], "momentum": [0.4, 0.2], "adamw": [0.9, 0.8]}},
        "generalisation": {"tlora": around(0.1), "dropout": around(0.1)},
        "validation_rise": {key: around(0.02, 0.0001) for key in ("tlora", "lora", "full")},
        "overhead": overhead(),
    }  # fmt: skip


def with_changes(*changes):
    """The measurements with some exchanged: ("cosine.update", values)."""
    found = copy.deepcopy(measurements())
    for path, value in changes:
        *folders, last = path.split(".")
        place = found
        for folder in folders:
            place = place[folder]
        assert last in place, path
        place[last] = value
    return found


NOISE = np.random.default_rng(1).standard_normal((SEEDS, 4))
FLAT = {"query": NOISE.tolist(), "value": NOISE[:, ::-1].tolist()}
MIXED = [(-1) ** i * 0.5 for i in range(SEEDS)]
"""Mean 0, far from it."""

CASES = [
    ("trained counts", [], HOLDS),
    ("minimal overhead", [], HOLDS),
    ("minimal overhead", [("overhead.flops", 1.2)], HOLDS_NOT),
    ("GLUE", [], CANNOT),
    ("comparable accuracy", [], HOLDS_HERE),
    ("comparable accuracy", [("accuracy.tlora", around(0.8))], HOLDS_NOT_HERE),
    ("comparable accuracy", [("accuracy.tlora", [0.88 + v for v in MIXED])], CANNOT),
    ("alpha matters", [("accuracy.alpha_matched", around(0.8))], HOLDS_HERE),
    ("alpha matters", [], HOLDS_NOT_HERE),
    ("alpha matters", [("accuracy.alpha_matched", [0.89 + v for v in MIXED])], CANNOT),
    ("dropout on the update", [("accuracy.dropout", around(0.95))], HOLDS_HERE),
    ("dropout on the update", [("accuracy.dropout", around(0.85))], HOLDS_NOT_HERE),
    ("dropout on the update", [("accuracy.dropout", [0.9 + v for v in MIXED])], CANNOT),
    ("no overfitting", [], HOLDS_HERE),
    ("no overfitting", [("validation_rise.tlora", around(0.3))], HOLDS_NOT_HERE),
    ("no overfitting", [("validation_rise.tlora", around(0.05))], CANNOT),
    ("B Gaussian-like", [("distribution.gaussian_share", around(0.95))], HOLDS_HERE),
    ("B Gaussian-like", [], HOLDS_NOT_HERE),
    ("B Gaussian-like", [("distribution.gaussian_share", around(0.8))], CANNOT),
    ("norms settle", [], HOLDS_HERE),
    ("norms settle", [("late_growth", around(0.2))], HOLDS_NOT_HERE),
    ("norms settle", [("late_growth", around(0.05))], CANNOT),
    ("B over layers", [], HOLDS_HERE),
    ("B over layers", [("B_norm", FLAT)], CANNOT),
    ("alpha over layers", [], HOLDS_HERE),
    ("alpha over layers", [("alpha", FLAT)], CANNOT),
    ("alpha of q and v", [("alpha.query", (NOISE + 9).tolist())], HOLDS_HERE),
    ("alpha of q and v", [("alpha", FLAT)], CANNOT),
    ("alpha and B", [], HOLDS_HERE),
    ("alpha and B", [("alpha_B_correlation", around(-0.5))], HOLDS_NOT_HERE),
    ("alpha and B", [("alpha_B_correlation", around(0.0))], CANNOT),
    ("norms like LoRA's", [("norm_ratio.spectral", around(1.0))], HOLDS_HERE),
    ("norms like LoRA's", [], HOLDS_NOT_HERE),
    ("norms like LoRA's", [("norm_ratio.spectral", around(1.25))], CANNOT),
    ("eigenvalues like LoRA's", [("eigenvalues.adapted", around(0.15))], HOLDS_HERE),
    ("eigenvalues like LoRA's", [("eigenvalues.adapted", around(0.45))], HOLDS_NOT_HERE),
    ("eigenvalues like LoRA's", [("eigenvalues.adapted", [0.3 + v for v in MIXED])], CANNOT),
    ("eigenvalues like LoRA's", [("relative_norm.lora", around(1.4))], CANNOT),
    ("cosine as published", [("cosine.published", around(0.7))], HOLDS_HERE),
    ("cosine as published", [], HOLDS_NOT_HERE),
    # near one, but no nearer than two unrelated updates
    ("cosine as published", [("cosine.published", around(0.98)), ("cosine.published_control", around(0.98)),
                             ("cosine.published_ceiling", around(0.99))], HOLDS_NOT_HERE),
    ("cosine as published", [("cosine.published_ceiling", MIXED)], CANNOT),
    ("cosine as published", [("relative_norm.tlora", around(1.4))], CANNOT),
    ("cosine of the updates", [("cosine.update", around(0.7))], HOLDS_HERE),
    ("cosine of the updates", [], HOLDS_NOT_HERE),
    ("cosine of the updates", [("cosine.update", [0.4 + v for v in MIXED])], CANNOT),
]  # fmt: skip


def judged(measured, shorter=None):
    return {row.key: row for row in judge(measured, shorter)}


@pytest.mark.parametrize(("key", "changes", "verdict"), CASES, ids=[f"{k}-{v}" for k, _, v in CASES])
def test_a_verdict_follows_from_the_measurements(key, changes, verdict):
    measured = with_changes(*changes)
    row = judged(measured, measured)[key]
    assert row.verdict == verdict
    assert (row.reason != "") == (verdict == CANNOT)
    told = asdict(row)
    assert all(told[name] for name in ("key", "claim", "source", "measured", "figure", "rule", "verdict", "why"))


def test_every_claim_of_the_paper_is_tested_and_every_verdict_reached():
    assert {key for key, _, _ in CASES} == set(CLAIMED) == set(judged(measurements()))
    assert {verdict for _, _, verdict in CASES} == set(VERDICTS)
    assert len(judge(measurements())) == len(CLAIMS)


def test_runs_of_half_the_length_that_say_otherwise_leave_a_claim_open():
    longer, shorter = measurements(), with_changes(("accuracy.tlora", around(0.8)))
    row = judged(longer, shorter)["comparable accuracy"]
    assert (row.verdict, row.reason) == (CANNOT, "longer training could change it")
    assert judged(longer, shorter)["norms settle"].verdict == HOLDS_HERE


@pytest.mark.parametrize("n", [2, 10, 29])
def test_fewer_than_thirty_seeds_leave_every_measured_claim_open(n):
    def cut(value):
        if isinstance(value, dict):
            return {k: cut(v) for k, v in value.items()}
        return value[:n] if isinstance(value, list) and len(value) == SEEDS else value

    few = cut(measurements()) | {"seeds": n}
    found = judge(few, few)
    assert {row.verdict for row in found} == {HOLDS, CANNOT}
    assert {row.reason for row in found if row.n is not None} == {f"{n} of 30 seeds"}


def test_the_released_logs_stand_beside_what_was_measured():
    found = judged(measurements())
    released = {key: row.logs.released for key, row in found.items() if row.logs}
    assert released == {
        "norms settle": "MRPC 3.3, QNLI 0.7, SST-2 1.4, CoLA 2.8",
        "alpha of q and v": "MRPC +0.18, QNLI +0.37, SST-2 +0.66, CoLA +0.28",
        "alpha and B": "+0.81 to +0.96",
        "alpha matters": "MRPC −1.6, QNLI −29, SST-2 −22, CoLA −3.8",
    }
    assert found["alpha matters"].logs.here == "−2.0 [−2.0, −2.0]"


def test_the_arithmetic_is_the_papers():
    found = judged(measurements())
    assert found["trained counts"].figure == "3,120 / 12,336 / 49,200"
    assert found["minimal overhead"].figure == "6.4 % more operations"
    # by hand: (4 d r + 3 r^2) / (2 d^2) more at d = 1024, r = 32, and d r + r^2 for the products that make dB
    assert 2 * 32 / 1024 <= overhead()["flops"] - 1 <= 2.1 * 32 / 1024
    right = {(slip.where, slip.printed): slip.right for slip in misprints()}
    assert right["section 4", "average accuracy 81.48 %"] == "91.05 %"
    assert right["text on Table 1", "252 times fewer than full fine-tuning"] == "113,898 times"
    assert any("73,800" in slip.why for slip in misprints())
    assert any("355,362,819" in slip.why for slip in misprints())
    assert {slip.printed.split()[0] for slip in misprints() if slip.where == "Table 3"} == {"RTE", "MRPC"}


def test_the_page_says_what_the_stored_audit_says():
    """No sentence about a verdict is written by hand."""
    report = json.loads((Path(tlora_ref.__file__).parent / "lab/bench/results/audit.json").read_text())
    text = PAGE.read_text(encoding="utf-8")
    assert f"<!-- text: audit -->\n\n```text\n{summary(report)}\n```" in text
    assert f"<!-- text: logs -->\n\n```text\n{logs_table(report['rows'])}\n```" in text
    assert f"<!-- text: misprints -->\n\n```text\n{misprints_table(misprints())}\n```" in text
    for stored, row in zip(report["rows"], judge(report["measured"], report["shorter"]), strict=True):
        found = asdict(row)
        assert stored.pop("p") == (None if row.p is None else pytest.approx(found["p"], rel=1e-6))
        assert stored == {key: value for key, value in found.items() if key != "p"}


def test_the_papers_figures_stand_in_one_file_that_leans_on_no_other():
    package = Path(tlora_ref.__file__).parent
    assert "import" not in (package / "paper.py").read_text().replace("from __future__ import annotations", "")
    assert "analysis" not in "".join(re.findall(r"^from .*", (package / "lab/jobs/glue.py").read_text(), re.M))
    for printed in ("81.48", "786_432", "3_145_728", "(96.2, 94.8, 85.2, 90.2)"):
        found = [path.name for path in package.rglob("*.py") if printed in path.read_text()]
        assert [name for name in found if not name.startswith("nb")] == ["paper.py"], printed


def test_the_row_on_glue_names_a_command_that_there_is():
    assert "`python -m tlora_ref glue` runs it" in judged(measurements())["GLUE"].why
    assert "glue" in JOBS


def test_text_on_the_page_is_escaped():
    row = replace(judge(measurements())[0], claim="a < b & <script>")
    text = page("T & t", ["<p>"], [row], ["<i>"], misprints(), [], {"k": "<b>"})
    assert "<i>" not in text
    assert "<script>" not in text
    assert "a &lt; b &amp; &lt;script&gt;" in text


# --- the setups ----------------------------------------------------------------------------------


def test_each_setup_changes_what_it_says_and_nothing_else():
    base = init_encoder(DEEP)
    models = {key: setup.prepare(base, 3) for key, setup in SETUPS.items()}
    tlora = models["tlora"]
    assert tlora.trained == {f"{name}.{k}" for name in MATRICES for k in ("B", "alpha")}
    assert models["alpha_own"].trained == {f"{name}.B" for name in MATRICES}
    assert models["full"].trained == set(base.params)
    assert (models["lora"].adapter.scale, models["lora_equal"].adapter.scale) == (0.5, 0.5)
    assert models["dropout"].adapter == replace(tlora.adapter, dropout=0.5)


# --- the job -------------------------------------------------------------------------------------


class References(HTMLParser):
    """Everything on a page that leads somewhere, and its text."""

    def __init__(self):
        super().__init__()
        self.found, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [v for k, v in attributes if k in ("src", "href", "data", "srcset", "action", "poster")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.job
def test_the_job_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audit, "BRIEF", replace(audit.BRIEF, pretrain=1, epochs=2, rates=(3e-2,)))
    small = {name: load_digits(name) for name in ("none", "rot90")}
    small = {
        name: {part: replace(p, x=p.x[:160], y=p.y[:160]) for part, p in parts.items()} for name, parts in small.items()
    }
    monkeypatch.setattr(audit, "load_digits", small.__getitem__)
    args = ["audit", "--quick", "--seeds", "3", "--json", "--out", str(tmp_path)]
    assert main(args) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "audit.json").read_text())
    assert len(report["rows"]) == len(CLAIMS)
    assert {row["verdict"] for row in report["rows"]} <= set(VERDICTS)
    assert report["rows"] == [asdict(row) for row in judge(report["measured"], report["shorter"])]
    assert report["shorter"] is None
    assert len(results_table(report["rows"]).splitlines()) == len(CLAIMS) + 2
    assert "3 seeds are too few for a verdict on what was trained: 30 are asked for." in summary(report)

    parser = References()
    text = (tmp_path / "audit.html").read_text()
    parser.feed(text)
    assert parser.tags.count("img") == len(parser.found) == 10
    assert all(reference.startswith("data:image/svg+xml;base64,") for reference in parser.found)
    assert not re.search(r"@import|url\(|https?://", text)
    assert not {"script", "link", "iframe", "object"} & set(parser.tags)
    for number, reference in zip(range(2, 12), parser.found, strict=True):
        svg = (tmp_path / f"figure-{number:02}.svg").read_bytes()
        assert b64decode(reference.partition(",")[2]) == svg
        assert b"<svg" in svg
        assert (tmp_path / f"figure-{number:02}.png").stat().st_size > 5_000
        assert f'id="figure-{number}"' in text
    shown = "".join(parser.text)
    for row in report["rows"]:
        assert row["claim"] in shown
        assert row["logs"] is None or row["logs"]["released"] in shown
    assert all(slip.printed in shown for slip in misprints())

    # the same once more repeats no run and finds the same; a lost run is made up for
    (store,) = tmp_path.glob("runs-*.jsonl")
    finished = store.read_text()
    monkeypatch.setattr(audit, "write_page", lambda *_: None)
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert store.read_text() == finished
    lines = finished.splitlines(keepends=True)
    store.write_text("".join(lines[:-1]))
    shared, plan = (audit.ByHand(), *bases(small)), audit.BRIEF
    audit.experiment(shared, plan, 3, [plan.epochs], store)
    assert [json.loads(line)["key"] for line in store.read_text().splitlines()] == [
        json.loads(line)["key"] for line in lines
    ]
    assert json.loads(store.read_text().splitlines()[-1])["result"] == json.loads(lines[-1])["result"]


def test_an_audit_with_enough_seeds_makes_runs_of_half_the_length_as_well(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audit, "BRIEF", replace(audit.BRIEF, pretrain=1, epochs=4, rates=(3e-2,)))
    monkeypatch.setattr(audit, "MIN_SEEDS", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    small = {name: {part: replace(p, x=p.x[:64], y=p.y[:64]) for part, p in load_digits(name).items()}
             for name in ("none", "rot90")}  # fmt: skip
    monkeypatch.setattr(audit, "load_digits", small.__getitem__)
    monkeypatch.setattr(audit, "write_page", lambda *_: None)
    assert main(["audit", "--quick", "--seeds", "2", "--json", "--out", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["measured"]["epochs"], report["shorter"]["epochs"]) == (4, 2)
    assert report["shorter"]["learning_rates"] == report["measured"]["learning_rates"]
    assert report["shorter"]["late_growth"] != report["measured"]["late_growth"]
    assert {len(values) for values in report["shorter"]["accuracy"].values()} == {2}
    assert set(report["shorter"]["accuracy"]) == {*SETUPS, "alpha_matched"}


def bases(small):
    """The pretrained base and the shifted parts, as the job makes them."""
    with audit.one_thread():
        return audit.pretrain(audit.ByHand(), small["none"]["train"], audit.BRIEF, DEEP), small["rot90"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seeds", "1"], "--seeds is 1, expected at least 2"),
        (["--seeds", "-3"], "--seeds is -3"),
        (["--epochs", "1"], "--epochs is 1, expected at least 2"),
        (["--shift", "up"], "unknown shift 'up'"),
        (["--out", "/proc/nowhere"], "cannot write to the output folder /proc/nowhere"),
    ],
)
def test_bad_arguments_are_one_sentence(args, message, tmp_path, capsys):
    assert main(["audit", "--out", str(tmp_path / "out"), *args]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()

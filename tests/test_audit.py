"""The audit: its rules on constructed measurements, and the job end to end."""

import copy
import json
import re
from base64 import b64decode
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from tlora_ref.__main__ import JOBS, main
from tlora_ref.init import init_encoder
from tlora_ref.lab.analysis import claims as rules
from tlora_ref.lab.analysis.claims import CLAIMS, judge
from tlora_ref.lab.analysis.page import page
from tlora_ref.lab.analysis.verdicts import (
    CANNOT,
    HOLDS,
    HOLDS_HERE,
    HOLDS_NOT,
    HOLDS_NOT_HERE,
    VERDICTS,
    apart,
    beyond_chance,
    elsewhere,
    settled,
    within,
)
from tlora_ref.lab.data import load_digits
from tlora_ref.lab.jobs import audit
from tlora_ref.lab.jobs.audit import DEEP, MATRICES, WAYS, results_table

SEEDS = 6
UP, DOWN, ACROSS = [0.1, 0.2, 0.15, 0.12, 0.18, 0.11], [-0.1, -0.2, -0.15, -0.12, -0.18, -0.11], [-3, 2, 5, -6, 1, 2.0]


# --- the rules -----------------------------------------------------------------------------------


def test_the_rules_on_constructed_values():
    assert (settled(True), settled(False), elsewhere()) == (HOLDS, HOLDS_NOT, CANNOT)
    assert [within(values, low=0) for values in (UP, DOWN, ACROSS)] == [HOLDS_HERE, HOLDS_NOT_HERE, CANNOT]
    assert [within(values, high=0) for values in (UP, DOWN, ACROSS)] == [HOLDS_NOT_HERE, HOLDS_HERE, CANNOT]
    assert within(UP, 0.05, 0.3) == HOLDS_HERE
    assert within(UP, 0.5, 0.9) == within(UP, 0.01, 0.05) == HOLDS_NOT_HERE
    assert within(UP, 0.14, 0.9) == CANNOT
    assert [apart(values) for values in (UP, DOWN, ACROSS)] == [HOLDS_HERE, HOLDS_HERE, HOLDS_NOT_HERE]
    assert (beyond_chance(0.01, 5), beyond_chance(0.2, 5)) == (HOLDS_HERE, HOLDS_NOT_HERE)


def test_fewer_than_three_seeds_judge_nothing():
    for values in ([], [1.0], [1.0, 1.0]):
        assert within(values, low=0) == apart(values) == CANNOT
    assert beyond_chance(0.001, 2) == CANNOT


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
    return {
        "seeds": SEEDS, "matrices": 8, "width": 32, "rank": 16, "equal_rank": 4,
        "counts": {"tlora": 2_056, "lora": 8_192, "lora_equal": 2_048, "full": 35_114},
        "accuracy": {key: around(0.9) for key in (*WAYS, "alpha_matched")},
        "distribution": {key: around(0.3) for key in ("skewness", "excess_kurtosis", "gaussian_share",
                                                      "rejected_share", "projected_kurtosis", "full_kurtosis")},
        "late_growth": around(0.02, 0.001),
        "schedule_share": 0.06,
        "alpha": {kind: (pattern + 0.1 * rng.standard_normal((SEEDS, 4))).tolist() for kind in ("query", "value")},
        "alpha_B_correlation": 0.5,
        "alpha_mean": 1.3,
        "norm_ratio": around(2.0),
        "relative_norm": {key: around(0.5) for key in ("tlora", "lora", "full")},
        "effective_rank": {key: around(5.0) for key in ("tlora", "lora", "full")},
        "eigenvalues": {key: around(v) for key, v in (("adapted", 0.3), ("adapted_control", 0.5),
                        ("adapted_ceiling", 0.1), ("update", 0.3), ("update_control", 0.5), ("update_ceiling", 0.1))},
        "cosine": {**likeness, **{key: around(0.1) for key in ("with_scale", "with_transpose", "tlora_ceiling",
                                                               "full_lora", "overlap")}, "overlap_random": 0.5},
        "relative_difference": {"adapted": around(0.4), "update": around(1.1)},
        "captured": {key: around(0.25) for key in ("lora", "full", "isotropic", "best")},
        "conserved": {"rates": [0.1, 0.05], "time": 1.0,
                      "drift": {"gd": [0.2, 0.1], "momentum": [0.4, 0.2], "adamw": [0.9, 0.8]}},
        "init": {"widths": [64, 1024], "released": [0.8, 3.2], "fan_in": [0.6, 0.6]},
        "generalisation": {"tlora": around(0.1), "dropout": around(0.1)},
        "rate_zero_change": 0.0,
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

CASES = [
    ("comparable", [], HOLDS_HERE),
    ("comparable", [("accuracy.tlora", around(0.8))], HOLDS_NOT_HERE),
    ("comparable", [("accuracy.tlora", around(0.88, 0.02))], CANNOT),
    ("glue", [], CANNOT),
    ("counts", [], HOLDS),
    ("ratio_252", [], HOLDS_NOT),
    ("gaussian", [("distribution.gaussian_share", around(0.95))], HOLDS_HERE),
    ("gaussian", [], HOLDS_NOT_HERE),
    ("gaussian", [("distribution.gaussian_share", around(0.8))], CANNOT),
    ("stable_norms", [], HOLDS_HERE),
    ("stable_norms", [("late_growth", around(0.2))], HOLDS_NOT_HERE),
    ("stable_norms", [("late_growth", around(0.05))], CANNOT),
    ("alpha_layers", [], HOLDS_HERE),
    ("alpha_layers", [("alpha", FLAT)], HOLDS_NOT_HERE),
    ("alpha_layers", [("seeds", 2)], CANNOT),
    ("alpha_kinds", [("alpha.query", (NOISE + 9).tolist())], HOLDS_HERE),
    ("alpha_kinds", [("alpha", FLAT)], HOLDS_NOT_HERE),
    ("alpha_kinds", [("alpha", {kind: rows[:2] for kind, rows in FLAT.items()})], CANNOT),
    ("alpha_needed", [("accuracy.alpha_matched", around(0.8))], HOLDS_HERE),
    ("alpha_needed", [], HOLDS_NOT_HERE),
    ("alpha_needed", [("accuracy.alpha_matched", around(0.89, 0.03))], CANNOT),
    ("norms_like_lora", [("norm_ratio", around(1.0))], HOLDS_HERE),
    ("norms_like_lora", [], HOLDS_NOT_HERE),
    ("norms_like_lora", [("norm_ratio", around(1.25))], CANNOT),
    ("eigenvalues_like_lora", [("eigenvalues.adapted", around(0.15))], HOLDS_HERE),
    ("eigenvalues_like_lora", [("eigenvalues.adapted", around(0.45))], HOLDS_NOT_HERE),
    ("eigenvalues_like_lora", [("eigenvalues.adapted", around(0.3, 0.05))], CANNOT),
    ("cosine_adapted", [("cosine.published", around(0.7))], HOLDS_HERE),
    ("cosine_adapted", [], HOLDS_NOT_HERE),
    # near one, but no nearer than two unrelated updates
    ("cosine_adapted", [("cosine.published", around(0.98)), ("cosine.published_control", around(0.98)),
                        ("cosine.published_ceiling", around(0.99))], HOLDS_NOT_HERE),
    ("cosine_adapted", [("cosine.published_ceiling", around(0.0, 0.1))], CANNOT),
    ("cosine_updates", [("cosine.update", around(0.7))], HOLDS_HERE),
    ("cosine_updates", [], HOLDS_NOT_HERE),
    ("cosine_updates", [("cosine.update", around(0.4, 0.05))], CANNOT),
    ("approximates", [("captured.lora", around(0.8))], HOLDS_HERE),
    ("approximates", [], HOLDS_NOT_HERE),
    ("approximates", [("captured.lora", around(0.5))], CANNOT),
    ("kaiming", [("init.released", [0.6, 0.61])], HOLDS),
    ("kaiming", [], HOLDS_NOT),
    ("dropout", [("accuracy.dropout", around(0.95))], HOLDS_HERE),
    ("dropout", [("accuracy.dropout", around(0.85))], HOLDS_NOT_HERE),
    ("dropout", [("accuracy.dropout", around(0.9, 0.05))], CANNOT),
    ("three_matrices", [], HOLDS_NOT),
    ("average", [], HOLDS_NOT),
    ("rate_zero", [], HOLDS_NOT),
    ("rate_zero", [("rate_zero_change", 1e-3)], HOLDS),
    ("attainable", [], HOLDS_NOT),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "verdict"), CASES, ids=[f"{n}-{v}" for n, _, v in CASES])
def test_a_verdict_follows_from_the_measurements(name, changes, verdict):
    row = getattr(rules, name)(with_changes(*changes))
    assert row.verdict == verdict
    assert all(isinstance(value, str) and value for value in asdict(row).values())


def test_every_row_is_tested_and_every_verdict_reached():
    assert {name for name, _, _ in CASES} == {claim.__name__ for claim in CLAIMS}
    assert {verdict for _, _, verdict in CASES} == set(VERDICTS)
    rows = judge(measurements())
    assert len({row.key for row in rows}) == len(rows) == len(CLAIMS)


def test_two_seeds_leave_every_measured_claim_open():
    def cut(value):
        if isinstance(value, dict):
            return {k: cut(v) for k, v in value.items()}
        return value[:2] if isinstance(value, list) and len(value) == SEEDS else value

    found = {row.key: row.verdict for row in judge(cut(measurements()) | {"seeds": 2})}
    assert set(found.values()) == {HOLDS, HOLDS_NOT, CANNOT}


def test_the_arithmetic_is_the_papers():
    rows = {row.key: row for row in judge(measurements())}
    assert rows["trained counts"].figure == "3,120 / 12,336 / 49,200"
    assert "355,362,819" in rows["252 times"].measured
    assert "252.1" in rows["252 times"].measured
    assert rows["average 81.48 %"].figure == "91.05"
    assert rows["three matrices a layer"].figure == "73,800"
    assert "RTE and MRPC" in rows["accuracies of one run"].why


def test_the_row_on_glue_names_a_command_that_there_is():
    assert "`python -m tlora_ref glue` runs it" in rules.glue({}).why
    assert "glue" in JOBS


def test_text_on_the_page_is_escaped():
    row = replace(judge(measurements())[0], claim="a < b & <script>")
    text = page("T & t", ["<p>"], [row], [], {"k": "<b>"})
    assert "<script>" not in text
    assert "a &lt; b &amp; &lt;script&gt;" in text


# --- the ways ------------------------------------------------------------------------------------


def test_each_way_changes_what_it_says_and_nothing_else():
    base = init_encoder(DEEP)
    models = {key: way.prepare(base, 3) for key, way in WAYS.items()}
    tlora = models["tlora"]
    assert tlora.trained == {f"{name}.{k}" for name in MATRICES for k in ("B", "alpha")}
    assert models["alpha_own"].trained == {f"{name}.B" for name in MATRICES}
    assert models["full"].trained == set(base.params)
    assert (models["lora"].adapter.scale, models["lora_equal"].adapter.scale) == (0.5, 0.5)
    assert (models["dropout"].adapter, models["fan_in"].adapter) == (
        replace(tlora.adapter, dropout=0.5),
        replace(tlora.adapter, init="fan_in"),
    )
    for name in MATRICES:
        product = [m.params[f"{name}.A"].sum() * m.params[f"{name}.C"].sum() for m in (tlora, models["fan_in"])]
        assert product[0] == pytest.approx(product[1], rel=1e-3)
        assert models["fan_in"].params[f"{name}.A"].std() < 0.9 * tlora.params[f"{name}.A"].std()


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
    monkeypatch.setattr(audit, "BRIEF", replace(audit.BRIEF, pretrain=1, epochs=2, search=1, rates=(3e-2,)))
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
    assert report["rows"] == [asdict(row) for row in judge(report["measured"])]
    assert report["measured"]["rate_zero_change"] == 0
    assert len(results_table(report["rows"]).splitlines()) == len(CLAIMS) + 2

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
    for row in report["rows"]:
        assert row["claim"] in "".join(parser.text)

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
    audit.experiment(shared, plan, 3, store)
    assert [json.loads(line)["key"] for line in store.read_text().splitlines()] == [
        json.loads(line)["key"] for line in lines
    ]
    assert json.loads(store.read_text().splitlines()[-1])["result"] == json.loads(lines[-1])["result"]


def bases(small):
    """The pretrained base and the shifted parts, as the job makes them."""
    with audit.one_thread():
        return audit.pretrain(audit.ByHand(), small["none"]["train"], audit.BRIEF, DEEP), small["rot90"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seeds", "1"], "--seeds is 1, expected at least 2"),
        (["--seeds", "-3"], "--seeds is -3"),
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

"""The seeded bugs: what each of them does, which checkers find it, and that right gradients are left in peace."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import test_kernels
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from strategies import LEADS, cases, draw_case, sizes

from tlora_ref import InputError
from tlora_ref.__main__ import main
from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.gradcheck import check
from tlora_ref.shapes import tied
from tlora_ref.verification import scorers
from tlora_ref.verification.mutants import ALL, BUGS, CONDITIONS, CONTROLS, FAMILIES, Mutant, holds, mutant
from tlora_ref.verification.scenarios import encoder_loss, encoder_scenarios
from tlora_ref.verification.scorers import CHECKERS, clean, problems, score

of_a_kernel = [m for m in ALL if m.op in KERNELS]
by_name = {"ids": lambda m: m.name}


# --- the list --------------------------------------------------------------------------------


def test_every_kernel_has_bugs_and_every_name_is_taken_once():
    assert len(BUGS) >= 60
    assert len(CONTROLS) >= 5
    assert len({m.name for m in ALL}) == len(ALL)
    assert {m.op for m in BUGS} >= {*KERNELS, "encoder"}
    assert {condition for m in ALL for condition in m.visible} == set(CONDITIONS)
    assert all(m.equivalent == (m in CONTROLS) for m in ALL)
    assert "control" not in FAMILIES


def test_a_mutant_reads_as_a_diff():
    assert mutant("tlora_dB_without_alpha").diff() == '- grads["B"] = alpha * utg_RS\n+ grads["B"] = utg_RS'
    with pytest.raises(InputError, match="there is no mutant 'tlora_dB'; there are tlora_dB_sign"):
        mutant("tlora_dB")


def test_an_edit_that_does_not_fit_its_kernel_is_an_error():
    lost = dataclasses.replace(mutant("tlora_dB_sign"), right="dB = 2")
    with pytest.raises(LookupError, match="tlora_dB_sign: tlora_linear_bwd has 'dB = 2' 0 times"):
        lost.pair()


def test_pairs_share_nothing():
    stale = mutant("tlora_stale_accumulator")
    case = next(iter(problems(stale.op, stale.pair(), "generic")))
    dout = np.ones_like(case.fn(**case.inputs)[0])
    once = case.vjp(dout, case.fn(**case.inputs)[1])["B"]
    twice = case.vjp(dout, case.fn(**case.inputs)[1])["B"]
    np.testing.assert_allclose(twice, 2 * once)
    again = next(iter(problems(stale.op, stale.pair(), "generic")))
    np.testing.assert_array_equal(again.vjp(dout, again.fn(**again.inputs)[1])["B"], once)


# --- what each does ------------------------------------------------------------------------------


def outcome(fwd, bwd, args, dout):
    """(out, gradients, cotangent) of the last of two backward calls from one cotangent, arguments copied."""
    args = {k: v.copy(order="K") if isinstance(v, np.ndarray) else v for k, v in args.items()}
    dout = dout.copy()
    for _ in range(2):
        out, cache = fwd(**args)
        grads = bwd(dout, cache)
    return out, grads, dout


def differs(m, right, args, dout, rtol, atol):
    """Is the mutant's outcome another one? Its forward has to be the same to the bit. An error is another one."""
    out, grads, after = right
    try:
        with np.errstate(all="ignore"):
            fwd, bwd = m.pair()
            wrong_out, wrong, wrong_after = outcome(fwd, bwd, args, dout)
    except (ValueError, IndexError, TypeError):
        return True
    np.testing.assert_array_equal(wrong_out, out)
    if set(wrong) != set(grads) or not np.array_equal(wrong_after, after):
        return True
    largest = max(1.0, *(np.abs(g).max(initial=0.0) for g in grads.values()))
    for key, g in grads.items():
        scale = max(np.abs(g).max(initial=0.0), np.abs(wrong[key]).max(initial=0.0))
        same_shape = np.shape(wrong[key]) == np.shape(g)
        if not same_shape or not np.abs(wrong[key] - g).max(initial=0.0) <= rtol * scale + atol * largest:
            return True
    return False


def points(op):
    """Drawn points, and from them those where single conditions fail: sizes of one, equal sizes, zero arrays."""
    start = {"M_RS": 0.0, "lambda_b_O": 0.0, "gamma_D": 1.0, "down_b_R": -100.0}
    for seed in range(180):
        size = sizes(np.random.default_rng([seed, 2]), op)
        ones = {0: "RS", 1: "T", 2: "RDIO", 3: "X", 4: "Y", 5: "Z"}.get(seed % 12, "")
        if seed % 7 == 0:
            size |= {letter: 3 for letter in size if letter != "H" and not ("H" in size and letter == "D")}
        size |= {letter: 1 for letter in ones if (letter in size and "H" not in size) or letter == "T"}
        case = draw_case(op, seed, LEADS[seed % 4], size | tied(size))
        if seed % 10 == 3:
            changed = {k: np.full_like(case.args[k], v) for k, v in start.items() if k in case.args}
            case = dataclasses.replace(case, args={**case.args, **changed})
        kept = next((case.args[k] for k in case.args if k.startswith("keep")), None)
        if kept is None or kept.any():  # where everything is dropped nothing is left to be wrong
            yield case, outcome(op.fwd, op.bwd, case.args, np.asarray(case.cotangent()))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(KERNELS))
def test_bugs_differ_exactly_under_their_conditions(name):
    """Where all conditions hold the gradients differ; for each of them there is a point where it alone fails and
    the gradients agree. Nowhere do the forwards differ, or the gradients of a control."""
    drawn = list(points(KERNELS[name]))
    for m in (m for m in of_a_kernel if m.op == name):
        needed, shown = {c for c in m.visible if c not in ("the second call", "cotangent != 1")}, 0
        for case, right in drawn:
            dout, tolerance = np.asarray(case.cotangent()), (1e-11, 1e-13) if m.equivalent else (1e-12, 0.0)
            seen = differs(m, right, case.args, dout, *tolerance)
            failing = [c for c in m.visible if not holds(c, case.args)]
            if m.equivalent or not failing:
                shown += 1
                assert seen != m.equivalent, (m.name, case.seed)
            elif len(failing) == 1 and not seen:
                needed -= set(failing)
        assert shown > 0, m.name
        assert not needed, (m.name, needed)


@pytest.mark.parametrize("m", [m for m in ALL if m.op not in KERNELS], **by_name)
def test_bugs_of_the_encoder_differ(m):
    """At every scenario of the method the loss is the same, and a gradient is not where the conditions hold."""
    method = m.op.removeprefix("encoder").lstrip("_") or "tlora"
    rest = (loss for _, loss in encoder_scenarios(method, scorers.SEED))
    losses = [encoder_loss(method, scorers.SEED, rows=2, time=3, layers=1), *rest]
    seen = []
    for right, wrong in zip(losses, problems(m.op, m.pair()), strict=True):
        inputs = {k: v.copy() for k, v in right.inputs.items()}
        (loss, cache), (same, wrong_cache) = right.fn(**right.inputs), wrong.fn(**inputs)
        assert same == loss
        grads, others = right.vjp(1.0, cache), wrong.vjp(1.0, wrong_cache)
        largest = max(np.abs(g).max() for g in grads.values())
        close = all(np.abs(others[k] - g).max() <= 1e-12 * largest for k, g in grads.items())
        seen.append(not close or any((inputs[k] != v).any() for k, v in right.inputs.items()))
        tokens = right.x if right.x.ndim == 2 else right.x[..., 0]
        arguments = {"tokens_NT": tokens, "mask_NT": right.mask, "pad_id": right.model.config.pad_id, **right.inputs}
        assert seen[-1] == (m.shows(arguments) and not m.equivalent)
    assert any(seen) != m.equivalent


# --- who finds them ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_projects_checker_finds_every_bug_and_rejects_no_control():
    found = score(scorers.tlora_ref)
    assert found.missed == ()
    assert found.false_alarms == ()
    assert found.ok
    assert len(found.killed) + len(found.survived) == len(ALL)


LAWS = (
    test_kernels.test_backward_equals_the_complex_step,
    test_kernels.test_gradients_have_the_declared_keys_shapes_and_dtype,
    test_kernels.test_inputs_cotangent_and_cache_are_left_alone,
    test_kernels.test_two_calls_give_the_same_bits,
)


@pytest.fixture
def no_shrinking():
    """A law that fails need not say which example is the smallest."""
    before = settings.get_profile("tlora_ref")
    settings.register_profile("no_shrinking", parent=before, phases=[Phase.generate])
    settings.load_profile("no_shrinking")
    yield
    settings.load_profile("tlora_ref")


def broken_law(m):
    """The name of the first law of tests/test_kernels.py that the mutant breaks."""
    fwd, bwd = m.pair()
    row = dataclasses.replace(KERNELS[m.op], fwd=fwd, bwd=bwd)
    for law in LAWS:
        try:
            law(row)
        except Exception:
            return law.__name__
    return None


@pytest.mark.slow
@pytest.mark.usefixtures("no_shrinking")
@pytest.mark.parametrize("name", list(KERNELS))
def test_the_property_suite_finds_every_bug_and_rejects_no_control(name):
    for m in (m for m in of_a_kernel if m.op == name):
        assert (broken_law(m) is None) == m.equivalent, m.name


def accepts_everything(fn, vjp, inputs, wrt, seed):
    return True


def fails_on_everything(fn, vjp, inputs, wrt, seed):
    raise RuntimeError("not a gradient")


def test_a_checker_is_scored_by_what_it_does():
    few = [mutant("tlora_dB_sign"), mutant("control_tlora_dB_einsum")]
    assert score(accepts_everything, few).missed == ("tlora_dB_sign",)
    assert score(accepts_everything, few).false_alarms == ()
    assert score(fails_on_everything, few).missed == ()
    assert score(fails_on_everything, few).false_alarms == ("control_tlora_dB_einsum",)
    assert not score(accepts_everything, few).ok
    with pytest.raises(InputError, match="point is 'somewhere', expected one of generic, initial, all"):
        score(accepts_everything, few, "somewhere")


def cheap(m):
    return m.op in KERNELS


@pytest.mark.parametrize("name", list(CHECKERS))
def test_every_checker_accepts_right_gradients_and_finds_a_sign(name):
    """Ordinary points and a coarse bug, so that each adapter is known to work in both directions."""
    sign = mutant("linear_dW_transposed" if name == "loss falls" else "tlora_dB_sign")
    for problem in problems(sign.op, sign.pair(), "generic"):
        assert not problem.accepted_by(CHECKERS[name])
    for op in ("tlora_linear", "layer_norm", "attention", "cross_entropy"):
        for problem in problems(op, (KERNELS[op].fwd, KERNELS[op].bwd), "generic"):
            assert problem.accepted_by(CHECKERS[name]), op


def test_what_common_checkers_miss():
    """At a generic point torch's tolerances let small errors through; at B = 0, alpha = 1 nobody sees dalpha."""
    small = [mutant(n) for n in ("tlora_dB_relative_1e-4", "tlora_dB_one_entry_1e-6", "tlora_float32_cache")]
    layout = [mutant("tlora_dx_B_in_memory_order")]
    slow = CHECKERS["torch slow"]
    assert score(slow, small + layout, "generic").killed == ()
    assert score(scorers.tlora_ref, small + layout, "generic").survived == ()
    shape_errors = ("transpose", "A/C swapped")  # R != S shows these, whatever B is
    hidden = [m for m in of_a_kernel if m.op == "tlora_linear" and {"B != 0", "alpha != 1"} & set(m.visible)]
    hidden = [m for m in hidden if m.family not in shape_errors]
    assert len(hidden) >= 8
    for name in ("tlora_ref", "CS231n 1e-7", "JAX", "HIPS autograd", "minitorch", "torch slow"):
        assert score(CHECKERS[name], hidden, "initial").killed == (), name


@pytest.mark.slow
def test_a_loss_that_falls_proves_little():
    assert len(score(scorers.loss_falls, filter(cheap, BUGS), "generic").missed) > len(BUGS) // 2


# --- false alarms --------------------------------------------------------------------------------


NORMALISED = {"reflect_unit": ("v_D",), "hta_unit_linear": ("left_I", "right_O"), "dora_full_linear": ("W0_IO",)}
"""What a kernel normalises, along the first axis. Of one entry nothing is left but its sign: the gradient is zero
everywhere, as a difference of terms of any size, and both the kernel and the oracle give their rounding for it."""


def assert_no_alarm(data, examples):
    """Every kernel, at points as wide as those that found every bug."""

    @settings(max_examples=examples)
    @given(case=st.sampled_from(list(KERNELS.values())).flatmap(lambda op: cases(op, data)))
    def run(case):
        assume(not any(len(case.args[name]) == 1 for name in NORMALISED.get(case.op.name, ())))
        report = check(
            case.op.fwd, case.op.bwd, case.args, wrt=tuple(case.differentiable), seed=case.seed, points=("given",)
        )
        assert report.ok, (case.op.name, report.table())

    run()


@pytest.mark.slow
def test_no_alarm_in_clean_examples():
    assert_no_alarm((1e-3, 1.0, 10.0), 150)


@pytest.mark.slow
def test_no_alarm_in_two_thousand_clean_examples():
    assert_no_alarm((1e-3, 1.0, 10.0), 2000)


@pytest.mark.slow
def test_clean_configurations_are_accepted():
    found = list(clean(60))
    assert len(found) == 60
    assert all(problem.accepted_by(scorers.tlora_ref) for problem in found)


# --- the job -------------------------------------------------------------------------------------


@pytest.fixture
def few_checkers(monkeypatch):
    """The job with two checkers, in this process, on bugs that take no time."""
    from tlora_ref.lab.jobs import mutants as job

    monkeypatch.setattr(job, "CHECKERS", {name: CHECKERS[name] for name in ("tlora_ref", "JAX")})
    monkeypatch.setattr(job, "CONFIGURATIONS", 4)
    monkeypatch.setattr(job, "run_all", lambda work, shared, tasks, label: [work(shared, task) for task in tasks])
    for name in ("ALL", "BUGS", "CONTROLS"):
        monkeypatch.setattr(job, name, tuple(m for m in getattr(job, name) if m.op in ("tlora_linear", "layer_norm")))
    return job


@pytest.mark.slow
def test_the_job_prints_a_table(few_checkers, capsys):
    assert main(["mutants"]) == 0
    printed = capsys.readouterr().out
    n = len(few_checkers.BUGS)
    assert f"tlora_ref over all scenarios: {n} of {n} bugs, 0 of 4 controls rejected" in printed
    assert "At a generic point" in printed
    assert "JAX (" in printed
    assert "tlora_float32_cache" in printed.partition("Missed at the generic point")[2]
    assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.slow
def test_the_job_prints_json(few_checkers, capsys):
    assert main(["mutants", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bugs"] == len(few_checkers.BUGS)
    assert report["checkers"]["tlora_ref"]["all_scenarios"]["missed"] == []
    assert "tlora_dalpha_sign" in report["checkers"]["JAX"]["initial"]["missed"]
    assert {m["name"] for m in report["mutants"]} == {m.name for m in few_checkers.ALL}


def test_the_job_fails_if_the_projects_checker_misses_a_bug(few_checkers, monkeypatch, capsys):
    few_checkers.CHECKERS["tlora_ref"] = accepts_everything
    assert main(["mutants"]) == 1
    assert "Missed over all scenarios\n  tlora_dB_sign: " in capsys.readouterr().out


def test_importing_the_mutants_and_scorers_loads_no_torch():
    code = (
        "import sys, tlora_ref.verification.mutants, tlora_ref.verification.scorers; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mutants_are_values():
    assert isinstance(mutant("tlora_dB_sign"), Mutant)
    assert dataclasses.replace(mutant("tlora_dB_sign"), name="mine").pair()

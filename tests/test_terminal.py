"""Commands and their terminal: Ctrl-C, a reader that has gone, a full disk, names and files that no job can use."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tlora_ref import InputError
from tlora_ref.__main__ import main
from tlora_ref.lab.runs import read_store, run_all

pytestmark = pytest.mark.slow  # jobs in processes of their own, interrupted

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


# --- Ctrl-C --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "times"), [(["mutants"], 1), (["mutants"], 3), (["demo", "--quick"], 2)])
def test_interrupts_end_a_job_and_its_processes_with_one_line(words, times, tmp_path):
    """Sent to the whole group, as a terminal does."""
    out = ["--out", str(tmp_path)] if words[0] == "demo" else []
    command = [sys.executable, "-m", "tlora_ref", *words, *out]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    job = psutil.Popen(command, start_new_session=True, env=ENVIRONMENT, **pipes)
    workers, patience = [], time.monotonic() + 120
    while not workers and time.monotonic() < patience:
        time.sleep(0.1)
        workers = [p for p in job.children() if "spawn_main" in " ".join(p.cmdline())]
    assert workers
    time.sleep(0.5)
    for _ in range(times):
        os.killpg(job.pid, signal.SIGINT)
        time.sleep(0.2)
    _, error = job.communicate(timeout=60)
    lines = [line for line in error.splitlines() if " s left" not in line]
    assert (job.returncode, lines) == (130, [f"tlora-ref {words[0]}: interrupted"])
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


DEAF = """
import multiprocessing, time
from tlora_ref.terminal import watch_interrupts
lock = multiprocessing.get_context("spawn").Lock()  # something of the system's that has to be given back
watch_interrupts("deaf: interrupted")
while True:
    try:
        print("deaf", flush=True)  # in here: the signal may come before print has returned
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def test_a_job_that_does_not_hear_is_ended_all_the_same():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    job = subprocess.Popen([sys.executable, "-c", DEAF], env=ENVIRONMENT, **pipes)
    assert job.stdout.readline() == "deaf\n"
    job.send_signal(signal.SIGINT)
    assert job.stdout.readline() == "deaf\n"  # it heard, and took no notice
    for _ in range(2):
        job.send_signal(signal.SIGINT)
    _, error = job.communicate(timeout=60)
    assert (job.returncode, error) == (130, "deaf: interrupted\n")


IGNORED = """
import os, signal, time
from tlora_ref.terminal import watch_interrupts
signal.signal(signal.SIGINT, signal.SIG_IGN)
watch_interrupts("deaf: interrupted")
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.2)
print("went on")
"""


def test_a_job_in_the_background_goes_on_when_the_terminal_is_interrupted():
    """A shell starts it with the signal ignored."""
    result = subprocess.run([sys.executable, "-c", IGNORED], capture_output=True, text=True, env=ENVIRONMENT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "went on\n", "")


def then_interrupt(shared, task):
    if task == 2:
        raise KeyboardInterrupt
    return task


def test_what_was_finished_before_an_interruption_is_kept(tmp_path):
    store = tmp_path / "runs.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_all(then_interrupt, None, [0, 1, 2, 3], "runs", 1, store)
    assert list(read_store(store).values()) == [0, 1]


# --- standard output -----------------------------------------------------------------------------

STUB = """
import sys, types
from pathlib import Path
from tlora_ref import __main__ as entry
job = types.ModuleType("tlora_ref.lab.jobs.count")
job.add_arguments = lambda parser: None
def run(args):
    for i in range(20000):
        print("a line of a table, number", i, flush=i % 1000 == 0)
    Path(sys.argv[-1]).write_text("result")
    print("the results are there")
    return 0
job.run, target = run, sys.argv.pop()
sys.modules[job.__name__] = job
run.__globals__["sys"] = types.SimpleNamespace(argv=[target])
entry.command()
"""


def stub(redirection: str, target: Path) -> subprocess.CompletedProcess:
    command = f'"$0" -c "$1" count "$2" {redirection}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, STUB, target], capture_output=True, text=True, env=ENVIRONMENT
    )


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        ("| head -1", 141, ""),
        pytest.param(
            "> /dev/full",
            2,
            "tlora-ref count: cannot write to standard output: No space left on device\n",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux"),
        ),
        (">&-", 0, ""),
        ("> /dev/null", 0, ""),
        ("2>&- | head -1", 141, ""),
    ],
)
def test_output_that_nobody_takes_stops_no_job(redirection, code, error, tmp_path):
    result = stub(redirection, tmp_path / "result")
    assert (tmp_path / "result").read_text() == "result"
    assert (result.returncode, result.stderr) == (code, error)


def test_help_and_a_wrong_argument_end_as_ever():
    for words, code in ((["--help"], 0), (["count", "--colour"], 2), (["nonsense"], 2)):
        result = subprocess.run([sys.executable, "-m", "tlora_ref", *words], capture_output=True, env=ENVIRONMENT)
        assert result.returncode == code


# --- what no job can use -------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["compare", "demo", "audit"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_place_for_results_that_is_taken_is_refused_before_the_work(job, kind, tmp_path, capsys):
    place = tmp_path / f"{job}.json"
    place.mkdir() if kind == "folder" else os.mkfifo(place)
    assert main([job, "--quick", "--out", str(tmp_path)]) == 2
    message = f"tlora-ref {job}: cannot write {place}: it is a {kind}, expected a file\n"
    assert capsys.readouterr().err == message
    assert [p.name for p in tmp_path.iterdir()] == [place.name]


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--quick", "--out", "{}"],
        ["compare", "--quick", "--out", "{}"],
        ["course", "--out", "{}"],
        ["export", "{}", "folder"],
        ["glue", "--task", "mrpc", "--model", "{}/a/b", "--data", "{}/a/b"],
    ],
    ids=lambda words: words[0],
)
def test_a_name_that_no_file_can_have_is_refused_in_a_sentence(words, name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(name) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tlora-ref {words[0]}: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def double(shared, task):
    return {"value": 2 * task}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b'"value": 4', b'"value": 5'),
        lambda data: b"\xff\xfe" + data,
        lambda data: b"[" * 100_000 + b"\n" + data,
        lambda data: data + b"null\n",
        lambda data: data.replace(b'"sha256"', b'"sha255"', 1),
        lambda data: data + b'{"key": [], "result": 1, "sha256": 1}\n',
    ],
)
def test_a_damaged_file_of_runs_is_refused_and_left(damage, tmp_path):
    store = tmp_path / "runs.jsonl"
    run_all(double, None, [1, 2], "runs", 1, store)
    damaged = damage(store.read_bytes())
    assert damaged != store.read_bytes()
    store.write_bytes(damaged)
    with pytest.raises(InputError, match=r"runs.jsonl, line \d, is damaged or no finished run"):
        run_all(double, None, [1, 2], "runs", 1, store)
    assert store.read_bytes() == damaged


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_of_runs_is_refused(kind, tmp_path):
    store = tmp_path / "runs.jsonl"
    store.mkdir() if kind == "folder" else os.mkfifo(store)
    with pytest.raises(InputError, match=f"runs.jsonl: cannot be read: it is a {kind}, expected a file"):
        run_all(double, None, [1], "runs", 1, store)


def test_a_disk_that_is_full_at_the_end_is_told_in_a_sentence(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*runs.jsonl: No space left on device"):
        run_all(double, None, [1], "runs", 1, tmp_path / "runs.jsonl")
    monkeypatch.setattr("tlora_ref.lab.jobs.count.run", full)
    assert main(["count", "--model", "gpt2"]) == 2
    assert capsys.readouterr().err == "tlora-ref count: No space left on device\n"


@pytest.mark.parametrize("sizes", ["99999999999999", "100000,100000", "9" * 5000])
def test_a_shape_larger_than_any_check_needs_is_refused(sizes, capsys):
    assert main(["check", "m:f", "m:g", "--shape", f"x={sizes}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tlora-ref check: --shape is 'x=9" if sizes[0] == "9" else "tlora-ref check: --shape")
    assert error.count("\n") == 1

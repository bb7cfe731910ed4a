"""Runs on all cores: what becomes of the workers."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest


def slow(_, task):
    time.sleep(60)


KILLED = """
from {module} import slow
from tlora_ref.lab.runs import run_all

if __name__ == "__main__":
    run_all(slow, None, [1, 2], "slow", workers=2)
"""


@pytest.mark.distributed
@pytest.mark.parametrize("signal", ["terminate", "kill"])
def test_workers_end_with_a_parent_that_is_killed(signal, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(KILLED.format(module=__name__))
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    parent = psutil.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": paths})
    workers, patience = [], time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < patience:
        time.sleep(0.1)
        workers = [p for p in parent.children() if "spawn_main" in " ".join(p.cmdline())]
    assert len(workers) == 2
    time.sleep(1)  # both are at their task
    getattr(parent, signal)()
    parent.wait(10)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive

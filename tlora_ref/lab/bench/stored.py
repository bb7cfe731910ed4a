"""What the runs in results/ say: bench about the cost of an adapted layer, compare about accuracy. Needs no torch.

Checked by  tests/test_audit.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def overhead(width: int = 1024, rank: int = 32) -> dict[str, Any]:
    """One layer of that size, forward and backward: TLoRA's operations over the frozen layer's, and for every dtype the
    (median, lower quartile, upper quartile) of the time over the frozen layer's, of TLoRA and of PEFT's LoRA."""
    report = json.loads((RESULTS / "bench.json").read_text())
    rows = [r for r in report["layers"] if (r["over"], r["width"], r["rank"]) == ("size", width, rank)]
    times: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["layer"] in ("TLoRA", "LoRA, PEFT"):
            times.setdefault(row["dtype"], {})[row["layer"]] = [row["ratio"], row["low"], row["high"]]
    (flops,) = {row["flops_over_floor"] for row in rows if row["layer"] == "TLoRA"}
    return {"width": width, "rank": rank, "processor": report["processor"], "flops": flops, "times": times}


def compared() -> dict[str, Any]:
    """The run of ``compare`` as the job wrote it: ``rows`` at natural and matched ranks, ``curves`` over ranks."""
    return json.loads((RESULTS / "compare.json").read_text())

"""What stored runs in results/ say: the cost of an adapted layer, and learning rates on questions. Needs no torch.

Checked by  tests/test_audit.py, tests/test_text.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def stored(name: str) -> dict[str, Any]:
    """The stored report of a job."""
    report: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return report


def overhead(width: int = 1024, rank: int = 32) -> dict[str, Any]:
    """One layer of that size, forward and backward: TLoRA's operations over the frozen layer's, and for every dtype the
    (median, lower quartile, upper quartile) of the time over the frozen layer's, of TLoRA and of PEFT's LoRA."""
    report = stored("bench_layers")
    rows = [r for r in report["layers"] if (r["over"], r["width"], r["rank"]) == ("size", width, rank)]
    times: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["layer"] in ("TLoRA", "LoRA, PEFT"):
            times.setdefault(row["dtype"], {})[row["layer"]] = [row["ratio"], row["low"], row["high"]]
    (flops,) = {row["flops_over_floor"] for row in rows if row["layer"] == "TLoRA"}
    return {"width": width, "rank": rank, "processor": report["processor"], "flops": flops, "times": times}


def stored_rates() -> dict[str, float]:
    """Row -> the learning rate that the published run of ``text`` chose for it, on validation questions."""
    rows = stored("text")["rows"]
    return {row["method"]: row["learning_rate"] for row in rows if row["learning_rate"] is not None}

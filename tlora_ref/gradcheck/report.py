"""What a check found: a verdict per array, the protocol checks, as text, HTML and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from math import isfinite

from ..tables import table

VERDICTS = {
    "PASS": "the gradient agrees with the oracle",
    "FAIL": "it does not, and the oracle was confirmed",
    "VACUOUS": "below noise at this point, so nothing was tested: check at another point too",
    "ORACLE_INVALID": "the oracle cannot be used on this function here; nothing is said about the gradient",
    "KINK": "fn has two slopes here, and the gradient is at or between them: check at another point too",
    "NONDETERMINISTIC": "two calls with the same arguments gave different numbers",
}


class GradientError(AssertionError):
    """A check that failed; the message is its table."""


@dataclass(frozen=True)
class Row:
    """One array: the comparison that came out worst.

    ``hand`` and ``oracle`` are the two values at ``index``; without an index they are the derivatives along a
    random direction. ``error`` is their distance, which PASS keeps at or below ``tolerance``; ``relative`` is the
    largest error as a share of the largest entry, or of a hundredth of the largest gradient of the call where
    that is larger (times |dout|).
    """

    array: str
    verdict: str
    oracle: str
    error: float | None = None
    tolerance: float | None = None
    index: tuple[int, ...] | None = None
    hand: float | None = None
    truth: float | None = None
    note: str = ""
    relative: float | None = None

    @property
    def ratio(self) -> float | None:
        """error / tolerance; None where nothing was compared, infinity for an error where none is allowed."""
        if self.error is None or self.tolerance is None:
            return None
        return self.error / self.tolerance if self.tolerance else (0.0 if self.error == 0 else float("inf"))

    @property
    def detail(self) -> str:
        """What the row found, in a sentence."""
        if self.hand is None or self.verdict == "VACUOUS":
            place = "" if self.index is None else f"at [{', '.join(map(str, self.index))}]: "
            return place + self.note
        where = "along a random direction" if self.index is None else f"at [{', '.join(map(str, self.index))}]"
        times = "" if self.ratio is None or not isfinite(self.ratio) else f", {self.ratio:.1e} x tolerance"
        values = f"{where}: hand {self.hand:.10g}, oracle {self.truth:.10g}{times}"
        return f"{values}; {self.note}" if self.note else values


@dataclass(frozen=True)
class Protocol:
    """A property every gradient has, whatever its values."""

    name: str
    ok: bool
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All rows of one check. ``malformed`` says why a gradient could not be compared at all, if so; ``covered`` are
    the points that were checked, and ``left_out`` those of a kind that the function does not take; ``random``: fn
    itself gives other numbers each time, so that nothing can be said of a gradient."""

    rows: Sequence[Row]
    protocol: Sequence[Protocol] = ()
    malformed: str = ""
    covered: tuple[str, ...] = ("given",)
    left_out: tuple[str, ...] = ()
    random: bool = False

    @property
    def ok(self) -> bool:
        """Nothing failed. A VACUOUS or KINK array did not fail, nor was it tested: see ``untested``."""
        return all(row.verdict in ("PASS", "VACUOUS", "KINK") for row in self.rows) and all(p.ok for p in self.protocol)

    @property
    def untested(self) -> tuple[str, ...]:
        """The arrays that no point tested: a gradient below noise, or a kink."""
        return tuple(row.array for row in self.rows if row.verdict in ("VACUOUS", "KINK"))

    @property
    def wrong(self) -> bool:
        """A gradient was found to be wrong, in its numbers or in what it does to its arguments."""
        any_wrong = any(row.verdict in ("FAIL", "NONDETERMINISTIC") for row in self.rows)
        return not (self.malformed or self.random) and (any_wrong or not all(p.ok for p in self.protocol))

    def table(self) -> str:
        """Columns for a terminal, then a line for everything that is not in order."""
        lines = [table(["array", "verdict", "oracle", "error", "tolerance", "error/tol"], self._cells())]
        said = [row for row in self.rows if row.verdict != "PASS" or row.note]
        lines += [f"{row.verdict} d{row.array} {row.note if row.verdict == 'PASS' else row.detail}".rstrip()
                  for row in said]  # fmt: skip
        lines += [f"FAIL protocol, {p.name}: {p.note}" for p in self.protocol if not p.ok]
        passed = [p.name for p in self.protocol if p.ok]
        lines += [f"ok: {'; '.join(passed)}"] if passed else []
        lines += [self._points()] if len(self.covered) + len(self.left_out) > 1 else []
        return "\n".join(lines)

    def _points(self) -> str:
        text = f"points: {', '.join(self.covered)}"
        return f"{text}; left out, as fn or vjp does not take it: {', '.join(self.left_out)}" if self.left_out else text

    def _cells(self) -> list[list[str]]:
        return [[r.array, r.verdict, r.oracle, *map(_number, (r.error, r.tolerance, r.ratio))] for r in self.rows]

    def _repr_html_(self) -> str:
        colours = {"PASS": "#1a7f37", "FAIL": "#cf222e", "NONDETERMINISTIC": "#cf222e"}

        def line(verdict: str, cells: Sequence[str]) -> str:
            style = f' style="color:{colours.get(verdict, "#9a6700")}"'
            return "<tr>" + "".join(f"<td{style}>{escape(cell)}</td>" for cell in cells) + "</tr>"

        head = ("array", "verdict", "oracle", "error", "tolerance", "error/tol", "")
        body = [
            line(row.verdict, [*cells, "" if row.verdict == "PASS" else row.detail])
            for row, cells in zip(self.rows, self._cells(), strict=True)
        ]
        body += [
            line("PASS" if p.ok else "FAIL", [p.name, "PASS" if p.ok else "FAIL", "protocol", "", "", "", p.note])
            for p in self.protocol
        ]
        return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(body)}</table>"

    def as_dict(self) -> dict[str, object]:
        """Plain values; a number that is not finite is None, as JSON has no other."""
        rows = [{**asdict(row), "ratio": row.ratio} for row in self.rows]
        rows = [{k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()} for row in rows]
        return {
            "ok": self.ok,
            "malformed": self.malformed,
            "points": list(self.covered),
            "left_out": list(self.left_out),
            "random": self.random,
            "rows": rows,
            "protocol": [asdict(p) for p in self.protocol],
        }

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.as_dict(), indent=1, allow_nan=False)

    def raise_if_failed(self) -> None:
        """Raises GradientError with the table unless ``ok``."""
        if not self.ok:
            raise GradientError("\n" + self.table())

    def __str__(self) -> str:
        return self.table()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"

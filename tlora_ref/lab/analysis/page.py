"""The audit as one HTML page: claims, a theorem, misprints, figures. Everything is in the file; it opens from disk.

Checked by  tests/test_audit.py: no reference leads out of the page.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .misprints import Misprint
from .verdicts import CANNOT, HOLDS, HOLDS_HERE, HOLDS_NOT, HOLDS_NOT_HERE, VERDICTS, Row


@dataclass(frozen=True)
class Plate:
    """A figure: its number, title, picture (SVG), what the paper shows there, what this one shows."""

    number: int
    title: str
    svg: Path
    paper: str
    here: str


CLASS = {HOLDS: "yes", HOLDS_HERE: "yes", HOLDS_NOT: "no", HOLDS_NOT_HERE: "no", CANNOT: "open"}
SIGN = {"yes": "✓", "no": "✗", "open": "?"}

STYLE = """
:root { --ink: #1a1a1a; --soft: #5c5c5c; --line: #d5d5d5; --paper: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 76rem; color: var(--ink); background: var(--paper);
       font: 16px/1.5 Georgia, "Times New Roman", serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; font-weight: normal; }
h2 { font-size: 1.3rem; margin: 3rem 0 .8rem; font-weight: normal; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 0 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font: 14px/1.45 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--ink); padding: .4rem .6rem; }
td { vertical-align: top; border-bottom: 1px solid var(--line); padding: .7rem .6rem; }
table.claims { table-layout: fixed; }
table.claims col.claim { width: 23%; }
table.claims col.measured { width: 35%; }
table.claims col.verdict { width: 13%; }
td b { display: block; margin-bottom: .2rem; }
td .soft { display: block; font-size: 12.5px; margin-top: .4rem; }
.verdict { font-weight: 600; }
.verdict span { display: inline-block; width: 1.4em; height: 1.4em; line-height: 1.4em; text-align: center;
                border-radius: 50%; margin-right: .3em; border: 1.5px solid currentColor; }
.yes { color: #00598f; } .no { color: #a33b00; } .open { color: #555555; }
.counts td, .counts th { padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
table.counts { width: auto; }
figure { margin: 0 0 2.6rem; break-inside: avoid; }
figure img { width: 100%; max-width: 64rem; height: auto; display: block; margin: .3rem 0 .6rem; }
figcaption { max-width: 50rem; font-size: 15px; }
@media (max-width: 50rem) {
  table.claims, table.claims tbody, table.claims tr, table.claims td { display: block; width: 100%; }
  table.claims thead, table.claims colgroup { display: none; }
  table.claims td { border: 0; padding: .3rem 0; }
  table.claims tr { border-bottom: 1px solid var(--line); padding: .8rem 0; }
}
@media print { body { max-width: none; padding: 0; font-size: 11pt; } tr { break-inside: avoid; } }
"""


def page(
    title: str,
    lead: Sequence[str],
    claims: Sequence[Row],
    theorem: Sequence[str],
    misprints: Sequence[Misprint],
    plates: Sequence[Plate],
    setting: Mapping[str, str],
) -> str:
    """The page. ``lead`` and ``theorem`` are paragraphs, ``setting`` what was run; all text is escaped here."""
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(text)}</p>" for text in lead),
        "<h2>Claims and verdicts</h2>",
        _verdict_counts(claims),
        _claims_table(claims),
        "<h2>A theorem: how much of any update TLoRA can hold</h2>",
        *(f"<p>{escape(text)}</p>" for text in theorem),
        "<h2>Misprints</h2>",
        _misprints_table(misprints),
        "<h2>Figures</h2>",
        *(_plate(plate) for plate in plates),
        "<h2>How it was measured</h2>",
        '<table class="counts">',
        *(f"<tr><th>{escape(key)}</th><td>{escape(text)}</td></tr>" for key, text in setting.items()),
        "</table></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _mark(verdict: str) -> str:
    kind = CLASS[verdict]
    return f'<span class="{kind}" aria-hidden="true">{SIGN[kind]}</span>{escape(verdict)}'


def _verdict_counts(claims: Sequence[Row]) -> str:
    rows = [
        f'<tr><td class="verdict {CLASS[v]}">{_mark(v)}</td><td>{sum(c.verdict == v for c in claims)}</td>'
        f"<td>{escape(meaning)}</td></tr>"
        for v, meaning in VERDICTS.items()
    ]
    head = "<thead><tr><th>verdict</th><th>claims</th><th>meaning</th></tr></thead>"
    return f'<table class="counts">{head}<tbody>{"".join(rows)}</tbody></table><p></p>'


def _claims_table(claims: Sequence[Row]) -> str:
    rows = [
        f"<tr><td><b>{escape(c.claim)}</b><span class='soft'>{escape(c.source)}</span></td>"
        f"<td>{escape(c.measured)}{_soft(_logs(c))}</td>"
        f"<td class='verdict {CLASS[c.verdict]}'>{_mark(c.verdict)}{_soft(c.reason)}{_soft(_seeds(c))}</td>"
        f"<td>{escape(c.why)}<span class='soft'>Rule: {escape(c.rule)}</span></td></tr>"
        for c in claims
    ]
    return (
        '<table class="claims"><colgroup><col class="claim"><col class="measured"><col class="verdict"><col></colgroup>'
        "<thead><tr><th>the paper says</th><th>measured</th><th>verdict</th><th>why</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _logs(claim: Row) -> str:
    return "" if claim.logs is None else f"{claim.logs.quantity}, in the released logs: {claim.logs.released}"


def _seeds(claim: Row) -> str:
    return "" if claim.p is None else f"{claim.n} seeds, p = {claim.p:.2g} after correction"


def _soft(text: str) -> str:
    return f"<span class='soft'>{escape(text)}</span>" if text else ""


def _misprints_table(misprints: Sequence[Misprint]) -> str:
    rows = [
        f"<tr><td>{escape(m.where)}</td><td>{escape(m.printed)}</td><td>{escape(m.right)}</td>"
        f"<td>{escape(m.why)}</td></tr>"
        for m in misprints
    ]
    head = "<thead><tr><th>where</th><th>printed</th><th>right</th><th>why</th></tr></thead>"
    return f'<table class="counts">{head}<tbody>{"".join(rows)}</tbody></table>'


def _plate(plate: Plate) -> str:
    data = b64encode(plate.svg.read_bytes()).decode()
    return (
        f'<figure id="figure-{plate.number}"><h3>Figure {plate.number}. {escape(plate.title)}</h3>'
        f'<img alt="{escape(plate.title)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(plate.here)} <span class='soft'>{escape(plate.paper)}</span></figcaption></figure>"
    )

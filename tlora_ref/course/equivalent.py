"""Edits of worked solutions that change nothing an exercise asks for, each with the reason."""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str], dict[str, str]] = {}

"""docs/states.md says what the table says."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_up_to_date() -> None:
    render = runpy.run_path(str(ROOT / "scripts" / "states-doc"))["render"]
    page = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    assert page == render(), "docs/states.md is stale: run scripts/states-doc"

"""Put the numbers of benchmarks/*.csv into benchmarks/README.md, each table between its two marks.

python benchmarks/summary.py
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
SHOWN = {  # columns that a reader needs; the CSV has all
    "ranks.csv": ["benchmark", "size", "ours_s", "ours_cpu_s", "peer_s", "ratio", "cpu_ratio", "target"],
    "bootstrap.csv": ["size", "ours_s", "ours_cpu_s", "peer_s", "ratio", "cpu_ratio", "apart"],
    "isats.csv": ["constraint", "size", "search_us", "dense_us", "ratio", "error", "dense_error", "target"],
    "against.csv": ["side", "size", "wall_s", "cpu_s", "peak_mib", "cpu_ratio", "wall_ratio"],
    "diagnosis.csv": ["stage", "size", "wall_s", "cpu_s", "peak_mib", "target"],
    "diagnosis_large.csv": ["stage", "size", "wall_s", "cpu_s", "peak_mib"],
    "grid.csv": ["benchmark", "size", "ours", "other", "value", "unit", "target"],
    "batched.csv": ["benchmark", "size", "ours", "other", "ratio", "apart", "target"],
    "tokens.csv": ["what", "rows", "value", "unit", "target", "held"],
    "gguf.csv": ["what", "rows", "value", "unit"],
    "new_user.csv": ["route", "state", "calls", "refused", "life_s", "wall_s", "cpu_s", "target"],
    "broken.csv": ["kind", "broken", "found"],
    "collect.csv": ["benchmark", "size", "collect_s", "bare_s", "value", "unit", "target"],
}


def markdown(table: pd.DataFrame) -> str:
    """A table; numbers to three digits, what is missing left empty."""

    def cell(value: object) -> str:
        digits = 4 if isinstance(value, float) and abs(value) >= 1000 else 3
        return "" if pd.isna(value) else f"{value:.{digits}g}" if isinstance(value, float) else str(value)

    rows = [table.columns, ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in rows)


def processor() -> str:
    """The processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", file.read_text()) if file.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def instruction_sets() -> str:
    """Vector instructions that NumPy found and was not told to leave alone: its sort uses the widest."""
    from numpy._core._multiarray_umath import __cpu_features__ as features

    named = [name for name in ("AVX2", "AVX512_SKX", "AVX512_ICL", "ASIMD", "SVE") if features.get(name)]
    return ", ".join(named) or "none"


def between(text: str, mark: str, new: str, page: str = "benchmarks/README.md") -> str:
    """Replace what stands between ``<!-- mark -->`` and ``<!-- end -->``."""
    pattern = rf"(<!-- {re.escape(mark)} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, text, flags=re.DOTALL):
        raise SystemExit(f"{page} has no <!-- {mark} --> ... <!-- end -->")
    return re.sub(pattern, lambda found: f"{found[1]}{new}\n{found[2]}", text, flags=re.DOTALL)


def main() -> None:
    page = HERE / "README.md"
    text = page.read_text(encoding="utf-8")
    text = between(
        text,
        "machine",
        f"{os.cpu_count()} cores of: {processor()}, with {instruction_sets()}; Python {platform.python_version()}.",
    )
    for name, columns in SHOWN.items():
        if (HERE / name).exists():
            text = between(text, name, markdown(pd.read_csv(HERE / name)[columns]))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

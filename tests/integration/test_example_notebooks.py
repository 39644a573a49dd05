"""Every notebook of examples/ run anew in a Jupyter kernel, its results checked; what is saved in the files is held to it."""

from __future__ import annotations

import base64
import functools
import io
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_image

from tests.support.daemons import Mark

_ROOT = Path(__file__).resolve().parents[2]
_NAMES = ("first_steps", "image_pipeline", "monte_carlo")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
#: Of a machine and of a run: directories, sockets, addresses in memory.
_OF_A_MACHINE = re.compile(r"/tmp/|/home/|/root/|/usr/|site-packages/|ipykernel_\d|ipc:///(?!…)|\b0x[0-9a-f]{6}|\r")


def saved(name: str) -> Any:
    """The notebook as it is in the repository."""
    return nbformat.read(_ROOT / "examples" / f"{name}.ipynb", as_version=4)


@functools.cache
def fresh(name: str) -> Any:
    """The notebook as `scripts/notebooks` would save it now. Nothing is left of its kernel and its daemon."""
    mark = Mark()
    env = mark.environment(IPYTHONDIR=str(mark.directory / "ipython"))
    del env["PYTHONWARNINGS"]  # Jupyter's own are not ours to mend
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, str(_ROOT / "scripts" / "notebooks.py"), name, "--into", directory]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=110, check=False)
            assert done.returncode == 0, done.stderr
            mark.assert_gone()
            return nbformat.read(Path(directory) / f"{name}.ipynb", as_version=4)
        finally:
            mark.remove()


def outputs(notebook: Any, cell: str) -> list[Any]:
    """What is under a cell."""
    return next(each.outputs for each in notebook.cells if each.id == cell)


def printed(notebook: Any, cell: str, stream: str = "stdout") -> str:
    """What a cell printed."""
    return "".join(each.text for each in outputs(notebook, cell) if each.get("name") == stream)


def value(notebook: Any, cell: str, kind: str = "text/plain") -> str:
    """The value of a cell's last expression, as it is shown."""
    return next(each.data[kind] for each in outputs(notebook, cell) if each.output_type == "execute_result")


def picture(notebook: Any, cell: str) -> np.ndarray:
    """The image that a cell shows: float64 of its grey values, or of its colours."""
    shown = Image.open(io.BytesIO(base64.b64decode(value(notebook, cell, "image/png"))))
    return np.asarray(shown.convert("RGB"), np.float64)


def kinds(notebook: Any) -> dict[str, set[str]]:
    """What kinds of output each cell has."""
    return {
        cell.id: {
            kind
            for output in cell.outputs
            for kind in (output.get("data") or [output.get("name") or f"{output.output_type} {output.ename}"])
        }
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


# -- what is saved -----------------------------------------------------------------------------------------------------


def test_these_are_all() -> None:
    assert sorted(path.stem for path in (_ROOT / "examples").glob("*.ipynb")) == sorted(_NAMES)


@pytest.mark.parametrize("name", _NAMES)
def test_what_is_saved_is_the_output_of_these_very_cells(name: str) -> None:
    notebook = saved(name)
    assert notebook.metadata["plover"] == fresh(name).metadata["plover"], "run scripts/notebooks"
    assert kinds(notebook) == kinds(fresh(name)), "run scripts/notebooks"
    assert sum(map(bool, kinds(notebook).values())) > len(kinds(notebook)) / 2
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("name", _NAMES)
def test_errors_are_where_they_are_meant_to_be(name: str) -> None:
    for notebook in (saved(name), fresh(name)):
        for cell in notebook.cells:
            failed = any(output.output_type == "error" for output in cell.get("outputs", ()))
            assert failed == ("raises-exception" in cell.metadata.get("tags", ())), cell.id


@pytest.mark.parametrize("name", _NAMES)
def test_nothing_of_a_machine_is_saved(name: str) -> None:
    for notebook in (saved(name), fresh(name)):
        texts = [
            text
            for cell in notebook.cells
            for output in cell.get("outputs", ())
            for text in [output.get("text", ""), *output.get("traceback", ()), *output.get("data", {}).values()]
        ]
        assert [text for text in texts if _OF_A_MACHINE.search(text)] == []


@pytest.mark.parametrize("name", _NAMES)
def test_a_reader_is_told_that_the_device_is_simulated(name: str) -> None:
    notebook = saved(name)
    assert "simulated" in notebook.cells[0].source
    assert "(simulated)" in "".join(map(str, notebook.cells))


@pytest.mark.parametrize("name", _NAMES)
def test_cells_are_short(name: str) -> None:
    assert all(len(cell.source.splitlines()) <= 30 for cell in saved(name).cells)


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_first_steps() -> None:
    notebook = fresh("first_steps")
    assert value(notebook, "function") == "<gpu_function saxpy(a, x, y)>"
    assert value(notebook, "call") == "array([1., 3., 5., 7., 9.])"
    assert "per loop" in printed(notebook, "warm")
    assert "future of norm" in value(notebook, "submit", "text/html")
    assert float(value(notebook, "result")) == pytest.approx(math.sqrt(30))
    assert "simulated:0 (simulated)" in value(notebook, "receipt", "text/html")
    assert printed(notebook, "output").splitlines()[-1] == "step 5: 1.414213562373"
    assert "UserWarning: stopped after 5 steps" in printed(notebook, "output", "stderr")
    assert printed(notebook, "timeout").startswith("norm (0123456789ab-")
    assert "ran longer than its timeout of 0.2 s" in printed(notebook, "timeout")
    assert value(notebook, "timeout") == "2.0"
    assert value(notebook, "kernel") == "array([0., 2., 4., 6., 8.], dtype=float32)"
    assert printed(notebook, "magic") == "the peak is at 50\n"
    assert value(notebook, "magic-result") == "((501,), 50)"


@pytest.mark.parametrize("made", [saved, fresh])
def test_the_error_of_first_steps_shows_both_lines_and_nothing_else(made: Callable[[str], Any]) -> None:
    trace = _COLOUR.sub("", "\n".join(outputs(made("first_steps"), "error")[0].traceback))
    assert re.findall(r"^(Cell|File) ", trace, re.MULTILINE) == ["Cell", "Cell"]
    assert re.search(r"-> \d+ mean\(\[\]\)", trace)
    assert re.search(r"-> \d+ +return float\(total\) / len\(values\)", trace)
    assert trace.rstrip().endswith("ZeroDivisionError: float division by zero")


def test_the_pictures_are_those_that_scipy_makes() -> None:
    notebook = fresh("image_pipeline")
    photo = load_sample_image("china.jpg")[::2, ::2]
    smooth = ndimage.gaussian_filter(photo @ np.array([0.299, 0.587, 0.114]), sigma=1.0, truncate=2.0, mode="nearest")
    strength = np.hypot(ndimage.sobel(smooth, axis=1), ndimage.sobel(smooth, axis=0))[1:-1, 1:-1]

    assert np.abs(picture(notebook, "photograph") - photo).mean() < 6  # 64 colours are not all
    shown = picture(notebook, "show-smooth")
    assert np.ptp(shown, axis=2).max() == 0  # grey
    assert np.abs(shown[..., 0] - smooth).mean() < 3
    assert np.abs(shown[..., 0].mean() - smooth.mean()) < 2

    found = re.fullmatch(r"threshold ([\d.]+), ([\d.]+)% of the pixels are edges\n", printed(notebook, "pipeline"))
    assert found is not None
    threshold, share = float(found[1]), float(found[2]) / 100
    drawn = picture(notebook, "show-edges")[..., 0] == 0
    assert abs(drawn.mean() - share) < 0.001
    assert (drawn[1:-1, 1:-1] == (strength > threshold)).mean() > 0.99
    assert strength.min() < threshold < strength.max()
    bright = picture(notebook, "show-gradient").max(axis=2)[1:-1, 1:-1]
    assert np.corrcoef(bright.ravel(), np.clip(strength, 0, 255).ravel())[0, 1] > 0.95

    differences = [float(number) for number in re.findall(r"by (?:at most )?([\d.e+-]+),", printed(notebook, "check"))]
    assert len(differences) == 2
    assert max(differences) < 0.01


def _black_scholes(strike: float, spot: float = 100.0, rate: float = 0.03, volatility: float = 0.2) -> float:
    d1 = (math.log(spot / strike) + rate + volatility**2 / 2) / volatility
    below = [(1 + math.erf(x / math.sqrt(2))) / 2 for x in (d1, d1 - volatility)]
    return spot * below[0] - strike * math.exp(-rate) * below[1]


def _geometric_asian(strike: float, weeks: int = 52, spot: float = 100.0, rate: float = 0.03) -> float:
    """The price for a geometric mean has a formula; that for the arithmetic mean is a little above it."""
    drift, volatility = (
        (rate - 0.02) * (weeks + 1) / (2 * weeks),
        0.2 * math.sqrt((weeks + 1) * (2 * weeks + 1) / 6) / weeks,
    )
    forward = spot * math.exp(drift + volatility**2 / 2)
    return math.exp(-rate) * _black_scholes(strike, forward, 0.0, volatility)


def test_prices_are_within_three_standard_errors_of_the_formula() -> None:
    notebook = fresh("monte_carlo")
    assert printed(notebook, "formula") == f"Black-Scholes: {_black_scholes(105):.4f}\n"
    found = re.match(r"Monte Carlo: +([\d.]+) ± ([\d.]+), from 3,200,000 paths", printed(notebook, "run"))
    assert found is not None
    assert 0.005 < float(found[2]) < 0.01  # the payoff's deviation is 12.5
    assert abs(float(found[1]) - _black_scholes(105)) < 3 * float(found[2])

    rows = [re.findall(r"[\d.]+", line) for line in printed(notebook, "strikes").splitlines()[1:]]
    assert [row[0] for row in rows] == ["80", "90", "100", "110", "120"]
    for strike, estimate, error, formula in (map(float, row) for row in rows):
        assert formula == pytest.approx(_black_scholes(strike), abs=0.001)
        assert abs(estimate - formula) < 3 * error

    asian = re.match(r"Asian option: ([\d.]+) ± ([\d.]+)", printed(notebook, "asian"))
    assert asian is not None
    bound = _geometric_asian(105)
    assert bound - 3 * float(asian[2]) < float(asian[1]) < bound + 0.2


def test_a_map_draws_a_bar_that_ends_full() -> None:
    notebook = fresh("monte_carlo")
    for cell, count in (("run", 64), ("strikes", 40), ("asian", 32)):
        assert f"100%|██████████| {count}/{count}" in printed(notebook, cell, "stderr")

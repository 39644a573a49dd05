"""Every example, run as a user would run it, and its output checked against NumPy and scikit-learn."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from tests.support.daemons import run_script

_ROOT = Path(__file__).resolve().parents[2]


def _run(source: str, *arguments: str) -> str:
    status, output, errors = run_script(source, *arguments)
    assert status == 0, errors
    return output


def _example(name: str) -> str:
    return (_ROOT / "examples" / name).read_text()


def test_hello_adds_what_it_is_given() -> None:
    assert _run(_example("hello.py")) == "[1. 3. 5. 7.]\n"


def test_edges_are_those_that_numpy_finds(tmp_path: Path) -> None:
    path = tmp_path / "edges.png"
    output = _run(_example("edges.py"), str(path))
    assert "640 × 427" in output
    assert "(simulated)" in output
    grey = np.asarray(Image.fromarray(load_sample_image("china.jpg")).convert("L"), np.float32) / np.float32(255)
    smooth_down = grey[:-2] + 2 * grey[1:-1] + grey[2:]
    smooth_along = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    across = smooth_down[:, 2:] - smooth_down[:, :-2]
    along = smooth_along[2:] - smooth_along[:-2]
    expected = np.zeros_like(grey)
    expected[1:-1, 1:-1] = np.sqrt(across**2 + along**2)
    drawn = np.asarray(Image.open(path), np.int64)
    assert drawn.shape == (427, 640)
    assert drawn.max() > 100
    assert np.abs(drawn - np.uint8(255 * np.clip(expected / 2, 0, 1)).astype(np.int64)).max() <= 1


def test_kmeans_agrees_with_scikit_learn() -> None:
    output = _run(_example("kmeans.py"))
    found = re.search(r"agreement with scikit-learn: ([\d.]+)% of labels, inertia ([\d.e+-]+) apart", output)
    assert found is not None, output
    assert float(found[1]) > 99
    assert float(found[2]) < 1e-3


@pytest.mark.parametrize("number", range(2))
def test_the_readmes_python_runs(number: int) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    output = _run("\n".join(blocks[: number + 1]))
    assert output.splitlines() == ["[1. 3. 5. 7. 9.]", "[0. 2. 4.]"][: number + 1]

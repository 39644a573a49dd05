"""Every example run as a user would run it, its output checked; and the lists in the documents held to the code."""

from __future__ import annotations

import re
import shutil
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from plover import errors, options
from plover.daemon.config import DaemonConfig, limits_table
from plover.wire import messages
from tests.support.daemons import Mark, run_script
from tests.support.daemons import plover as command
from tests.support.remote import User, host

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


def test_many_calls_estimate_pi() -> None:
    found = re.fullmatch(r"pi is ([\d.]+) ± ([\d.]+), from 32 calls\n", _run(_example("map_progress.py")))
    assert found is not None
    assert abs(float(found[1]) - np.pi) < 6 * float(found[2]) + 0.001


def test_calls_from_asyncio() -> None:
    assert _run(_example("asynchronous.py")).splitlines() == [
        "together: [2.0, 4.0, 6.0]",
        "as futures: [2.0, 4.0, 6.0]",
        "too slow: run",
        "cancelled: True",
    ]


def test_errors_as_they_look() -> None:
    assert _run(_example("errors.py")).splitlines() == [
        "return float(cp.asarray(values).sum()) / len(values)",
        "the last words",
        "signal 9, last output 'the last words'",
        "stopped in its run after 0.2 s",
        "<lambda> → global 'file' → io.TextIOWrapper",
        "and the next call works: 2.0",
    ]


def test_own_modules_go_along() -> None:
    mark = Mark()
    shutil.copytree(_ROOT / "examples" / "heatflow", mark.directory / "heatflow")
    status, output, errors = run_script(_example("own_modules.py"), mark=mark)
    assert status == 0, errors
    plate = np.pad(np.zeros((7, 7)), 1, constant_values=100.0)
    for _ in range(20):
        plate[1:-1, 1:-1] = (plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]) / 4
    assert output.splitlines() == [
        f"{plate[4, 4]:.1f} degrees after 20 steps, in a heatflow.plate.Plate",
        "it came home as this script's own class: True",
    ]


def test_the_same_program_on_a_host_elsewhere(tmp_path: Path) -> None:
    user = User(tmp_path / "me")
    with host() as gpu1:
        user.enrol(gpu1, "alice")
        for arguments, environment in (([gpu1.tcp], {}), (["gpu1"], {}), ([], {"PLOVER_ADDRESS": gpu1.tcp})):
            elsewhere = {"XDG_CONFIG_HOME": str(user.configuration), **environment}
            status, output, errors = run_script(_example("remote_host.py"), *arguments, environment=elsewhere)
            assert status == 0, errors
            assert f"<session with {gpu1.tcp}: Plover " in output
            found = re.search(r"solved on \S+, simulated:0; the residue is (\S+)\n", output)
            assert found is not None, output
            assert float(found[1]) < 1e-9


def test_a_host_elsewhere_that_does_not_know_the_user_says_what_to_do(tmp_path: Path) -> None:
    with host() as gpu1:
        elsewhere = {"XDG_CONFIG_HOME": str(tmp_path / "me")}
        status, output, errors = run_script(_example("remote_host.py"), gpu1.tcp, environment=elsewhere)
    assert (status, output) == (1, "")
    assert errors.startswith(f"{gpu1.tcp}: ")
    assert "plover keys" in errors
    status, output, errors = run_script(_example("remote_host.py"), "gpu1")
    assert (status, output) == (1, "")
    assert errors.startswith("gpu1: ")


def test_the_readme_names_every_example() -> None:
    section = _document("README.md").partition("\n## Examples\n")[2].partition("\n## ")[0]
    files = {path.name for path in (_ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")}
    assert set(re.findall(r"^\| \[(\S+)\]\(examples/\1\) \|", section, re.MULTILINE)) == files


def test_examples_are_short() -> None:
    for path in (_ROOT / "examples").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 60, path.name


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


def _document(name: str) -> str:
    return (_ROOT / name).read_text()


def _first_cells(text: str) -> list[str]:
    """What stands in backquotes at the beginning of a table's rows."""
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


def test_every_limit_stands_in_the_document_with_its_default() -> None:
    limits = limits_table(DaemonConfig(addresses=("ipc:///d.sock",), state_dir=Path("/")))
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", _document("docs/configuration.md"), re.MULTILINE))
    assert rows == {name: str(value) for name, value in limits.items()}


@pytest.mark.parametrize(
    ("heading", "union"),
    [
        ("Client → daemon", messages.FromClient),
        ("Daemon → client", messages.ToClient),
        ("Worker → daemon", messages.FromWorker),
        ("Daemon → worker", messages.ToWorker),
        ("Borrower → daemon", messages.FromBorrower),
        ("Daemon → borrower", messages.ToBorrower),
        ("Zygote → daemon", messages.FromZygote),
        ("Daemon → zygote", messages.ToZygote),
    ],
)
def test_every_message_stands_in_the_document_under_its_direction(heading: str, union: Any) -> None:
    section = _document("docs/wire.md").partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    assert _first_cells(section) == [message.__name__ for message in (typing.get_args(union) or (union,))]


def test_the_readme_names_every_error_and_every_option() -> None:
    text = _document("README.md")
    for name in errors.__all__:
        assert f"`{name}`" in text or f"`plover.{name}`" in text, name
    said = text.partition("\nOptions: ")[2].partition("\n\n")[0]
    assert set(options.Options.__annotations__) == {
        name for name in re.findall(r"`(\w+)`", said) if name not in ("True", "TypeError")
    }


def test_the_configuration_names_every_option_of_every_command() -> None:
    text = _document("docs/configuration.md")
    for name in ("start", "stop", "drain", "status", "doctor"):
        assert f"`plover {name}`" in text
        _, usage, _ = command(name, "--help")
        for option in set(re.findall(r"--[a-z-]+", usage)) - {"--help"}:
            assert f"`{option}" in text, (name, option)


@pytest.mark.parametrize("path", sorted(_ROOT.glob("*.md")) + sorted(_ROOT.glob("docs/**/*.md")), ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"(?<![\w/.])(?:docs|scripts|plover|runtime)/[\w/.-]*\w", path.read_text()):
        assert (_ROOT / target).exists(), target

"""Which differences between a payload's versions and the worker's are refused, and which are only said."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest

from plover import serialize, versions
from plover.decorator import gpu_function
from plover.errors import VersionMismatch
from plover_runtime import skew
from plover_runtime.functions import Functions

OURS = {
    "python": "3.11",
    "cloudpickle": "3.1.2",
    "numpy": "1.26.4",
    "numba": "0.68.1",
    "numba-cuda": "0.30.4",
    "cupy": "13.2",
}


def made(function: Any, **theirs: str) -> list[Any]:
    """A payload made with other versions."""
    stamp = versions._STAMP + msgspec.msgpack.encode({**OURS, **{k.replace("_", "-"): v for k, v in theirs.items()}})
    return [*serialize.pack_function(function)[0], stamp]


@pytest.fixture(autouse=True)
def _this_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skew, "_own", lambda: OURS)


def of(*names: str) -> skew.Names:
    return frozenset((module, name) for module, _, name in (each.rpartition(":") for each in names))


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("theirs", "names", "package", "what"),
        [
            ({"python": "3.12"}, of(), "python", "bytecode"),
            ({"cloudpickle": "4.0"}, of("cloudpickle.cloudpickle:_make_function"), "cloudpickle", "by value"),
            ({"numpy": "2.4"}, of("numpy.random._pickle:__generator_ctor"), "numpy", "random generator"),
            ({"numba-cuda": "1.0"}, of("plover.kernels:_make_dispatcher"), "numba-cuda", "kernel"),
            ({"numba-cuda": "1.0"}, of("numba.cuda.types:x"), "numba-cuda", "kernel"),
            ({"numba": "1.0"}, of("numba.core.serialize:_unpickle"), "numba", "compiled"),
            ({"cupy": "14.0"}, of("cupyx.jit._interface:_JitRawKernel"), "cupy", "objects of it"),
        ],
    )
    def test_only_what_the_payload_holds(
        self, theirs: dict[str, str], names: skew.Names, package: str, what: str
    ) -> None:
        found = skew.refused({**OURS, **theirs}, OURS, names)
        assert found is not None
        assert found[0] == package
        assert what in found[1]
        if package != "python":
            assert skew.refused({**OURS, **theirs}, OURS, of("math:sqrt")) is None
            assert f"'{package}=={OURS[package].split('.')[0]}.*'" in found[2]

    @pytest.mark.parametrize(
        "theirs",
        [{"cloudpickle": "3.9"}, {"numpy": "1.99"}, {"numba": "0.1"}, {"numba-cuda": "0.99"}, {"cupy": "13.99"}],
    )
    def test_a_minor_version_is_not(self, theirs: dict[str, str]) -> None:
        everything = of("cloudpickle:x", "numpy.random:x", "numpy._core:x", "plover.kernels:_make_dispatcher", "cupy:x")
        assert skew.refused({**OURS, **theirs}, OURS, everything | of("numba.core:x", "numba.cuda:x")) is None

    def test_numpy_reads_what_an_earlier_one_wrote(self) -> None:
        assert skew.refused({**OURS, "numpy": "1.26"}, {**OURS, "numpy": "2.4"}, of("numpy.random:x")) is None

    def test_numpys_new_modules_where_the_worker_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        theirs, names = {**OURS, "numpy": "2.4"}, of("numpy._core.multiarray:_reconstruct")
        assert skew.refused(theirs, OURS, names) is None  # this one has them
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        found = skew.refused(theirs, OURS, names)
        assert found is not None
        assert found[:2] == ("numpy", "it holds arrays or types of it")

    def test_cupys_kernels_travel_as_arguments(self) -> None:
        assert skew.refused({**OURS, "cupy": "99.0"}, OURS, of("plover.kernels:_make_cupy")) is None

    def test_what_one_side_lacks_is_no_difference(self) -> None:
        without = {"python": "3.11", "numpy": "1.26.4"}
        assert skew.differences(OURS, without) == skew.differences(without, OURS) == []
        assert skew.refused({**OURS, "cupy": "99"}, without, of("cupy:x")) is None

    def test_a_version_that_is_no_number(self) -> None:
        assert skew.refused({**OURS, "cupy": "main"}, {**OURS, "cupy": "main"}, of("cupy:x")) is None


class TestReferences:
    def test_what_a_pickle_names(self) -> None:
        generator, kind = np.random.default_rng(0), np.dtype("datetime64[s]")
        stream = serialize.pack_function(lambda: (generator, kind, generator))[0][0]
        found = {module for module, _ in skew.references(bytes(stream))}
        assert {"numpy.random._pickle", "cloudpickle.cloudpickle"} <= found

    def test_a_text_is_no_reference(self) -> None:
        found = skew.references(bytes(serialize.pack(["numpy.random", "x", "cupy", ("cupy", "y")])[0]))
        assert found == frozenset()

    def test_older_protocols(self) -> None:
        import pickle

        assert skew.references(pickle.dumps(np.dtype, 2)) == {("numpy", "dtype")}


class TestLoading:
    def test_a_refusal_names_both_sides_and_what_to_do_and_unpickles_nothing(self) -> None:
        generator = np.random.default_rng(0)
        with pytest.raises(VersionMismatch) as caught:
            Functions().load(b"d", made(lambda: generator, numpy="2.4.6"), "mean")
        assert (caught.value.client, caught.value.daemon) == ("numpy 2.4.6", "numpy 1.26.4")
        assert str(caught.value) == (
            "mean was made with numpy 2.4.6, the worker has numpy 1.26.4, and it holds a random generator: install the same "
            "major version on both sides (here with pip install 'numpy==1.*'), use an environment that has it, or make these "
            "objects inside the function"
        )

    def test_what_does_no_harm_is_a_debug_line(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "plover")
        assert Functions().load(b"d", made(lambda: 7, numpy="2.4.6", cupy="14.0"), "seven").target() == 7
        assert [record.getMessage() for record in caplog.records] == [
            "seven was made with other versions than the worker has: numpy 2.4.6 and here 1.26.4, cupy 14.0 and here 13.2; "
            "nothing that it holds depends on them"
        ]

    def test_it_is_a_note_where_loading_fails_after_all(self) -> None:
        payload = made(lambda: 7, numpy="2.4.6")
        payload[0] = b"\x80\x04\x8c\x0bnot_there_x\x8c\x01f\x93."
        with pytest.raises(ModuleNotFoundError) as caught:
            Functions().load(b"d", payload, "seven")
        assert "numpy 2.4.6 and here 1.26.4" in caught.value.__notes__[0]

    @pytest.mark.parametrize("payload", [made(lambda: 7), serialize.pack_function(lambda: 7)[0]])
    def test_the_same_versions_and_none(self, payload: list[Any], caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        assert Functions().load(b"d", payload).target() == 7
        assert not caplog.records


class TestTheStamp:
    def test_a_payload_has_it_and_its_large_buffers_too(self) -> None:
        array = np.arange(100_000)
        payload = gpu_function(lambda: array)._pack()
        assert versions.read_stamp(payload.buffers) == versions.of_stamp()
        assert np.array_equal(serialize.unpack(payload.buffers)(), array)

    def test_it_names_what_is_installed(self) -> None:
        said = versions.of_stamp()
        assert (said["python"], said["numpy"]) == (f"3.{sys.version_info.minor}", np.__version__)
        assert {"cloudpickle", "numba", "numba-cuda"} <= set(said)

    def test_it_imports_nothing_and_is_read_once(self) -> None:
        code = (
            "import sys; from plover import versions; before = set(sys.modules); first = versions.stamp(); "
            "print([m for m in set(sys.modules) - before if m.split('.')[0] in ('numpy', 'cupy', 'numba', 'cloudpickle')]); "
            "versions.metadata = None; assert versions.stamp() is first; versions.versions()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "[]\n"

"""Functions and kernels in pools of processes: by name as any function, but by cloudpickle by value out of a script."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from plover import gpu_function, serialize
from tests.support.daemons import Daemon, run_script

_FUNCTIONS = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np
from plover import gpu_function

OFFSET = 100

class Answer:
    def __init__(self, value):
        self.value = value

def twice(x):
    return x * 2

@gpu_function
def ask(x):
    return Answer(twice(x) + OFFSET)

"""

_MORE = """
from numba import cuda

@gpu_function
def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

class Model:
    def __init__(self, k):
        self.k = k

    @gpu_function
    def times(self, x):
        return self.k * x

    @classmethod
    @gpu_function
    def named(cls, x):
        return cls.__name__ * x

@gpu_function
@cuda.jit
def double(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] *= 2

def launch(kernel):
    x = np.ones(4)
    kernel(x)
    return x.sum()
"""

_MAIN = """
def check(map_):
    answers = list(map_(ask, [1, 2]))
    assert [type(each) is Answer for each in answers] == [True, True], answers
    assert [each.value for each in answers] == [102, 104]
    assert [each.value for each in map_(ask.options(timeout=60), [3])] == [106]
    assert list(map_(factorial, [3, 4])) == [6, 24]
    assert list(map_(Model(3).times, [1, 2])) == [3, 6]
    assert list(map_(Model(3).times.options(timeout=60), [1])) == [3]
    assert list(map_(Model.named, [1, 2])) == ["Model", "ModelModel"]
    assert list(map_(launch, [double[1, 4], double[2, 2]])) == [8, 8]

if __name__ == "__main__":
    how = sys.argv[1]
    if how in ("loky", "multiprocessing"):
        import joblib
        check(lambda f, items: joblib.Parallel(2, backend=how)(joblib.delayed(f)(item) for item in items))
        if how == "loky":
            from joblib.externals.loky import get_reusable_executor
            get_reusable_executor().shutdown()
    else:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(how)) as pool:
            check(pool.map)
    print("all right")
"""

_TOLD = "plover: no GPU here: calls run on a simulated device (`plover doctor` says why)\n"


def _run(
    where: str, how: str, functions: str, main: str, directory: Path, environment: dict[str, str]
) -> tuple[int, str, str]:
    """Run functions that the script itself defines, or a module beside it."""
    if where == "script":
        return run_script(functions + main, how, environment=environment)
    (directory / "mine.py").write_text(functions)
    source = f"import sys; sys.path.insert(0, {str(directory)!r})\nfrom mine import *\n{main}"
    return run_script(source, how, environment=environment | {"PYTHONPATH": str(directory)})


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("script", "fork"),
        ("script", "spawn"),
        ("module", "spawn"),
        ("script", "loky"),
        ("module", "loky"),
        ("script", "multiprocessing"),
    ],
)
def test_functions_methods_and_kernels_run_in_pools_of_processes(
    where: str, how: str, tmp_path: Path, daemon: Daemon
) -> None:
    environment = {"PLOVER_ADDRESS": daemon.address, "PYTHONWARNINGS": "default"}  # loky warns on some Pythons
    status, out, errors = _run(where, how, _FUNCTIONS + _MORE, _MAIN, tmp_path, environment)
    assert (status, out) == (0, "all right\n"), errors


@pytest.mark.parametrize(("where", "how"), [("script", "fork"), ("script", "spawn"), ("module", "spawn")])
def test_children_with_daemons_of_their_own_tell_of_simulation_once_and_leave_nothing(
    where: str, how: str, tmp_path: Path
) -> None:
    main = """
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        print([each.value for each in pool.map(ask, range(4))])
"""
    status, out, errors = _run(where, how, _FUNCTIONS, main, tmp_path, {"PLOVER_DEVICES": "simulated:1"})
    assert (status, out, errors) == (0, "[100, 102, 104, 106]\n", _TOLD)


def test_children_of_one_that_made_a_call_use_its_daemon_and_tell_nothing() -> None:
    source = f"""{_FUNCTIONS}
import os

def where(_):
    ask(1)
    return os.environ["PLOVER_EMBEDDED_ADDRESS"]

if __name__ == "__main__":
    ask(1)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(len({{os.environ["PLOVER_EMBEDDED_ADDRESS"], *pool.map(where, range(4))}}))
"""
    status, out, errors = run_script(source, environment={"PLOVER_DEVICES": "simulated:1"})
    assert (status, out, errors) == (0, "1\n", _TOLD)


@gpu_function
def by_name(x: int) -> int:
    return x


class TestByName:
    def test_a_module_level_function_is_found_as_itself(self) -> None:
        assert pickle.loads(pickle.dumps(by_name)) is by_name
        assert cloudpickle.loads(cloudpickle.dumps(by_name)) is by_name

    def test_plovers_own_serializer_sends_its_value_and_so_does_cloudpickle_where_it_is_asked_to(self) -> None:
        for found in (serialize.unpack(serialize.pack(by_name)), _registered(by_name)):
            assert type(found) is type(by_name)
            assert found is not by_name
            assert found.local is not by_name.local
            assert found.local(3) == 3

    def test_one_that_has_no_name_there_is_refused_as_any_function(self) -> None:
        @gpu_function
        def nested(x: int) -> int:
            return x

        with pytest.raises((pickle.PicklingError, AttributeError), match=r"<locals>\.nested"):
            pickle.dumps(nested)

    def test_one_whose_name_means_another_is_refused_as_any_function(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(globals(), "by_name", gpu_function(lambda x: x))
        with pytest.raises(pickle.PicklingError, match="not the same object as .*by_name"):
            pickle.dumps(_by_name)


_by_name = by_name


def _registered(function: Any) -> Any:
    """What another process makes of it where its module was registered with cloudpickle to go by value."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return pickle.loads(cloudpickle.dumps(function))
    finally:
        cloudpickle.unregister_pickle_by_value(module)

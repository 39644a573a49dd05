"""Installing the simulator: what it refuses, what it costs, and that forked workers can use it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

from tests.support.preconditions import needs


def run(code):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(entry for entry in sys.path if entry))
    environment.pop("NUMBA_ENABLE_CUDASIM", None)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def passes(code):
    result = run(code)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_after_the_real_cupy_it_is_too_late():
    needs(importlib.util.find_spec("cupy"), "the real CuPy")
    result = run("import cupy\nfrom plover_runtime import simulator\nsimulator.install()")
    assert "RuntimeError: the real CuPy is already imported in this process" in result.stderr


def test_after_an_unsimulated_numba_it_is_too_late():
    result = run("import numba\nfrom plover_runtime import simulator\nsimulator.install()")
    assert "RuntimeError: Numba is already imported in this process without the simulator" in result.stderr


def test_a_numba_that_was_told_to_simulate_is_no_hindrance():
    passes(
        "import os; os.environ['NUMBA_ENABLE_CUDASIM'] = '1'\nimport numba\n"
        "from plover_runtime import simulator\nsimulator.install()\n"
        "from numba import cuda\nassert cuda.jit.__code__.co_filename.endswith('launch.py')"
    )


def test_installing_imports_and_starts_nothing():
    passes(
        "import sys, threading\nfrom plover_runtime import simulator\nassert not simulator.installed()\n"
        "simulator.install(memory_bytes=1000)\n"
        "assert simulator.memory_info() == (1000, 1000)\n"
        "assert not {'cupy', 'numba'} & set(sys.modules)\n"
        "assert not simulator.is_device_array(1)\n"
        "import cupy, cupyx, cupy.linalg, cupy.cuda.memory, numba.cuda\n"
        "from cupy import fft, random, testing\n"
        "assert 'simulator' in cupy.__file__\n"
        "assert threading.active_count() == 1"
    )


def test_forked_workers_compute():
    passes(
        "import os\nfrom plover_runtime import simulator\nsimulator.install()\n"
        "import cupy as cp, numpy as np\nfrom numba import cuda\n"
        "@cuda.jit\n"
        "def rotate(a):\n"
        "    i = cuda.threadIdx.x\n"
        "    x = a[(i + 1) % cuda.blockDim.x]\n"
        "    cuda.syncthreads()\n"
        "    a[i] = x\n"
        "kept = cp.arange(4.0)\n"
        "children = []\n"
        "for _ in range(3):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        rotate[1, 4](kept)\n"
        "        os._exit(0 if kept.tolist() == [1, 2, 3, 0] else 1)\n"
        "    children.append(child)\n"
        "assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]\n"
        "assert kept.tolist() == [0, 1, 2, 3]"
    )

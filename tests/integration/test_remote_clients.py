"""Clients of other systems: a Python in which everything is gone that only Linux, or only unix, has, uses a remote daemon.

What is taken away is what CPython documents as missing there. It is no macOS and no Windows, but whatever our client would
need of Linux fails here as it would there. What the standard library, NumPy and ZeroMQ need for themselves is imported first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import PATIENCE_S, script
from tests.support.remote import Host, User

_FOREIGN = """
import asyncio, concurrent.futures, getpass, multiprocessing, os, select, signal, socket, subprocess, sys, tempfile, time
import cloudpickle, msgspec, numpy, zmq, zmq.utils.monitor

SYSTEM = sys.argv[1]
GONE = {
    "os": "pidfd_open memfd_create eventfd sched_getaffinity sched_setaffinity sched_yield getrandom posix_fadvise "
    "splice copy_file_range unshare setns O_TMPFILE O_PATH",
    "select": "epoll",
    "signal": "pidfd_send_signal sigtimedwait",
    "socket": "AF_NETLINK AF_VSOCK AF_PACKET",
}
if SYSTEM == "win32":
    more = {
        "os": "fork forkpty register_at_fork getuid geteuid getgid getegid setsid getsid getpgid setpgid killpg getppgid "
        "wait wait3 wait4 uname mkfifo statvfs fchmod pread pwrite sendfile chown lchown posix_spawn O_CLOEXEC O_NONBLOCK "
        "sysconf getgroups set_blocking get_blocking",
        "select": "poll",
        "signal": "SIGKILL SIGHUP SIGALRM SIGUSR1 SIGCHLD pthread_sigmask pthread_kill sigwait setitimer alarm pause",
        "socket": "AF_UNIX send_fds recv_fds SCM_RIGHTS CMSG_SPACE",
        "time": "clock_gettime CLOCK_MONOTONIC",
    }
    GONE = {name: GONE.get(name, "") + " " + more.get(name, "") for name in {**GONE, **more}}

    def pair(*_):  # what Windows' Python does
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.create_connection(server.getsockname())
            return one, server.accept()[0]

    socket.socketpair = pair
for name, attributes in GONE.items():
    for attribute in attributes.split():
        if hasattr(sys.modules[name], attribute):
            delattr(sys.modules[name], attribute)
modules = "fcntl resource pwd grp termios tty pty syslog spwd crypt posix _posixshmem readline".split()
for name in modules if SYSTEM == "win32" else ["_posixshmem"]:
    sys.modules[name] = None
sys.platform = SYSTEM
assert not any(name.partition(".")[0] in ("plover", "cupy", "numba") for name in sys.modules)
"""

_CALLS = """
import plover
from plover import gpu_function

session = plover.connect("gpu1")

@gpu_function
def scaled(a, x):
    import cupy as cp
    print("scaling", x.size)
    return a * cp.asarray(x)

x = numpy.arange(100_000, dtype="f8")
born, out = plover.array(numpy.arange(1 << 18, dtype="f8")), plover.empty(1 << 18)
gpu_function(lambda x, out: out.__setitem__(..., x + 1))(born, out=out)
assert (out == born + 1).all()
assert not any(name in sys.modules for name in ("plover.borrowing", "plover.mappings", "plover.client.segments"))
assert (scaled(2.0, x) == 2 * x).all()
assert list(gpu_function(lambda n: n * n).map(range(20))) == [n * n for n in range(20)]
assert asyncio.run(scaled.aio(1.0, x)).sum() == x.sum()
futures = [scaled.submit(float(n), x[:10]) for n in range(5)]
assert [future.result().sum() for future in concurrent.futures.as_completed(futures)]

@gpu_function
def broken():
    raise LookupError("no such star")

try:
    broken()
except LookupError as error:
    import traceback
    assert "no such star" in traceback.format_exc()
    assert 'raise LookupError("no such star")' in traceback.format_exc()
else:
    raise AssertionError

cancelled = gpu_function(lambda: __import__("time").sleep(30)).submit()
assert cancelled.cancel()
assert "plover" not in [name for name in sys.modules if name in ("cupy", "numba", "docker")]
assert not {"cupy", "numba", "docker"} & set(sys.modules), "the client imports what only a GPU host has"
session.close()
try:
    plover.Session().connection()  # nothing is configured: an embedded daemon would have to be started
except plover.DaemonUnreachable as error:
    assert "a daemon runs on Linux only" in str(error)
print("done", SYSTEM)
"""

_KERNELS = """
from numba import cuda  # before anything is taken away: Numba's own needs are not ours
"""
_KERNEL_CALLS = """
import plover
from plover import gpu_function

@gpu_function
@cuda.jit
def double(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = 2 * x[i]

with plover.connect("gpu1"):
    x = numpy.arange(1000, dtype="f4")
    out = numpy.empty_like(x)
    double[4, 256](x, out)
    assert (out == 2 * x).all()
print("done", SYSTEM)
"""


@pytest.fixture
def alice(gpu1: Host, tmp_path: Path) -> Iterator[User]:
    user = User(tmp_path / "me")
    user.enrol(gpu1, "alice")
    yield user
    gpu1.revoke("alice")


@pytest.mark.parametrize("system", ["darwin", "win32"])
@pytest.mark.parametrize(
    ("source", "output"),
    [(_FOREIGN + _CALLS, True), (_KERNELS + _FOREIGN.replace('"numba"', '""') + _KERNEL_CALLS, False)],
    ids=["calls", "kernels"],
)
def test_a_client_needs_nothing_of_linux(alice: User, system: str, source: str, output: bool) -> None:
    environment = {"XDG_CONFIG_HOME": str(alice.configuration), "PYTHONWARNINGS": "default"}
    with script(source, system, environment=environment) as running:
        status, out = running.wait(2 * PATIENCE_S)
        assert status == 0, running.stderr()
        assert out.endswith(f"done {system}\n")
        assert ("scaling 100000" in out) == output


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_its_commands_work_too(alice: User, gpu1: Host, system: str) -> None:
    source = _FOREIGN + (
        "from plover.cli.main import main\n"
        "for command in ('keys show', 'keys list', 'doctor --address gpu1', 'status --address gpu1', 'doctor'):\n"
        "    assert main(command.split()) == 0, command\n"
        "assert main(['start']) == 1\n"
    )
    environment = {"XDG_CONFIG_HOME": str(alice.configuration), "PYTHONWARNINGS": "default"}
    with script(source, system, environment=environment) as running:
        status, out = running.wait(2 * PATIENCE_S)
        assert status == 0, running.stderr()
        assert "which knows you as tenant alice" in out
        assert "a daemon runs on Linux only" in running.stderr()

"""``ssh://``: the system's ssh leads to the daemon's ipc socket on another host.

One ssh process authenticates. On the far side it runs ``plover whereabouts``, which says where the socket is and its
secret, and stays until its input ends; then ssh is asked, through its control socket, to forward a local socket there.

Guarantees: the tunnel ends with `close`, and with this process, however that ends: a small shell waits at the end of a pipe,
ends ssh and takes the directory away. Ctrl-C does not reach ssh. Every reason for which there is no tunnel has a text of its
own. Without a terminal ssh asks nobody for a password; with one it may, once.

Assumes: OpenSSH 6.7 or newer on both sides, unix sockets here (not Windows), Plover installed there. `$PLOVER_SSH` is the
program to run instead of ``ssh``, with arguments (``ssh -F my_config``).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from plover.addresses import Ssh
from plover.errors import AccessDenied, DaemonUnreachable, PloverError

if TYPE_CHECKING:
    import zmq

__all__ = ["ANSWER", "Answer", "Tunnel", "explain"]

#: What the far side's answer begins with: login scripts may print other things before it.
ANSWER = b"plover-whereabouts: "


class Answer(msgspec.Struct, omit_defaults=True):
    """What ``plover whereabouts`` says: where the socket is and its secret, or why there is none."""

    socket: str = ""
    secret: bytes = b""
    error: str = ""


#: A host answers, and Python starts there, within this time; a person may have to type a password.
_ANSWER_S = 30.0
_PERSON_S = 120.0
_STEP_S = 10.0
_END_S = 2.0

_OPTIONS = (
    "-T",  # no terminal there
    "-o ControlMaster=yes",
    "-o ControlPersist=no",
    "-o ExitOnForwardFailure=yes",
    "-o StreamLocalBindUnlink=yes",
    "-o StreamLocalBindMask=0177",
    "-o ConnectTimeout=10",
    "-o ServerAliveInterval=5",  # a network that is gone is noticed after 15 s
    "-o ServerAliveCountMax=3",
    "-o ClearAllForwardings=yes",  # those of the user's configuration
    "-o RemoteCommand=none",
    "-o ForwardX11=no",
    "-o ForwardAgent=no",
)
#: ssh itself, deaf to the terminal's Ctrl-C, which is the calling script's.
_RUN = 'trap "" INT QUIT; exec "$@"'
#: Waits for the end of its input; unless it was told that ssh has ended, ends it. Then takes the directory away.
_SWEEP = 'trap "" INT QUIT TERM HUP; read word; [ "$word" = ended ] || kill "$0" 2>/dev/null; rm -rf -- "$1"'


class Tunnel:
    """A running tunnel.

    Args:
        address: for errors.
        ssh: where to.
        command: how plover is called there; a shell there reads it.

    Attributes:
        endpoint: this machine's end, ``ipc://…``.
        secret: of the socket at the other end.

    Raises:
        DaemonUnreachable: there is no way, or no daemon at its end.
        AccessDenied: the host does not let us in, or is not known.
    """

    def __init__(self, address: str, ssh: Ssh, command: str) -> None:
        if os.name == "nt":
            raise PloverError(f"{address}: ssh on Windows cannot forward unix sockets: use tcp:// and `plover keys`")
        self._address = address
        self._pid = os.getpid()
        self._program = shlex.split(os.environ.get("PLOVER_SSH") or "ssh")
        self._destination = f"{ssh.user}@{ssh.host}" if ssh.user else ssh.host
        self._where = ["-p", str(ssh.port)] if ssh.port else []
        self._sweeper: subprocess.Popen[bytes] | None = None
        self._ssh: subprocess.Popen[bytes] | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="plv-"))  # short: a socket's path is
        self.endpoint = f"ipc://{self._directory / 'd'}"
        try:
            self._open(ssh, command)
        except BaseException:
            self.close()
            raise
        _tunnels.add(self)

    def __repr__(self) -> str:
        return f"<tunnel to {self._address}{'' if self._ssh and self._ssh.poll() is None else ', ended'}>"

    # -- opening --------------------------------------------------------------------------------------------------------

    def _open(self, ssh: Ssh, command: str) -> None:
        where = f" --address {shlex.quote('ipc://' + ssh.socket)}" if ssh.socket else ""
        has_terminal = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
        options = [word for option in _OPTIONS for word in option.split()]
        self._errors = (self._directory / "e").open("w+b")
        self._ssh = self._start(
            _RUN,
            "sh",
            *self._program,
            *options,
            *("-o", f"BatchMode={'no' if has_terminal else 'yes'}"),
            *("-S", str(self._directory / "c")),
            *self._where,
            *("--", self._destination, f"{command} whereabouts --hold{where}"),
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._sweeper = self._start(_SWEEP, str(self._ssh.pid), str(self._directory), stdout=subprocess.DEVNULL)
        answer = self._hear(_PERSON_S if has_terminal else _ANSWER_S)
        if answer.error:
            raise DaemonUnreachable(f"{self._address}: {answer.error}", address=self._address)
        self.secret = answer.secret
        self._forward(answer.socket)
        self._try()

    def _start(self, script: str, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.Popen(
            ["/bin/sh", "-c", script, *arguments], stdin=subprocess.PIPE, bufsize=0, env=environment, **streams
        )

    def _hear(self, timeout_s: float) -> Answer:
        """The far side's answer."""
        assert self._ssh is not None
        assert self._ssh.stdout is not None
        deadline = time.monotonic() + timeout_s
        said = b""
        while True:
            for line in said.splitlines(keepends=True):
                if line.startswith(ANSWER) and line.endswith(b"\n"):
                    return self._read(line.removeprefix(ANSWER))
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._ssh.stdout], [], [], left)[0]:
                raise self._failure(None, said, f"nothing came within {timeout_s:g} s")
            data = os.read(self._ssh.stdout.fileno(), 65536)
            if not data:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._ssh.wait(_STEP_S)
                raise self._failure(self._ssh.returncode, said, "")
            said += data

    def _read(self, line: bytes) -> Answer:
        try:
            return msgspec.json.decode(line, type=Answer)
        except msgspec.MsgspecError:
            reason = "another version of Plover answers there: install the same on both sides"
            raise self._failure(None, b"", reason) from None  # without the line, which may have the secret in it

    def _forward(self, far_socket: str) -> None:
        """Ask the running ssh for the forwarding."""
        words = [
            *self._program,
            *("-F", "none"),  # not the forwardings that the user's configuration may want besides
            *("-S", str(self._directory / "c"), "-O", "forward"),
            *("-L", f"{self._directory / 'd'}:{far_socket}"),
            *self._where,
            *("--", self._destination),
        ]
        try:
            asked = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_STEP_S, check=False)
        except subprocess.TimeoutExpired:
            raise self._failure(None, b"", f"ssh did not forward a socket within {_STEP_S:g} s") from None
        if asked.returncode:
            raise self._failure(None, asked.stderr, "ssh forwards no socket")

    def _try(self) -> None:
        """A daemon greets whoever connects; a host that forbids forwarding closes the connection instead."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_STEP_S)
            try:
                probe.connect(str(self._directory / "d"))
                greeting = probe.recv(10)
            except OSError as error:
                raise self._failure(None, b"", f"the forwarded socket cannot be used ({error})") from None
        if not greeting:
            raise self._failure(
                None,
                b"",
                "the host does not forward to its daemon's socket: its sshd must have AllowStreamLocalForwarding yes",
            )

    def _failure(self, status: int | None, said: bytes, what: str) -> PloverError:
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace")
        return explain(self._address, self._destination, status, errors + said.decode(errors="replace"), what)

    def plug(self, dealer: zmq.Socket[bytes]) -> None:
        """Connect a fresh DEALER."""
        dealer.connect(self.endpoint)

    # -- the end --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End ssh, and take away what the tunnel left. In a forked child it does nothing."""
        if os.getpid() != self._pid:
            return
        _tunnels.discard(self)
        ssh, self._ssh = self._ssh, None
        if ssh is not None:
            _end(ssh)
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None and sweeper.stdin is not None:
            with contextlib.suppress(OSError):
                sweeper.stdin.write(b"ended\n")
            sweeper.stdin.close()
            sweeper.wait()
        with contextlib.suppress(AttributeError):
            self._errors.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _let_go(self) -> None:
        """In a forked child: the pipes' ends belong to the parent."""
        for process in (self._ssh, self._sweeper):
            if process is not None and process.stdin is not None:
                process.stdin.close()
                process.returncode = 0  # not this process's child: nothing to wait for, and no warning about it


def _end(ssh: subprocess.Popen[bytes]) -> None:
    """Its input's end ends the far side, and that ends it; SIGTERM and SIGKILL where the network does not answer."""
    for stream in (ssh.stdin, ssh.stdout):
        if stream is not None:
            stream.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(subprocess.TimeoutExpired):
            ssh.wait(_END_S)
            return
        ssh.send_signal(number)
    ssh.wait()


# -- what went wrong -----------------------------------------------------------------------------------------------------


def explain(address: str, destination: str, status: int | None, said: str, what: str) -> PloverError:
    """Why there is no tunnel, from what ssh said.

    Args:
        address: as the user wrote it.
        destination: ``user@host``.
        status: ssh's exit status; 255 is its own failing, others are the far side's; None if it still runs.
        said: by ssh and the far side.
        what: what is known besides.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    by_hand = f"`ssh {destination}`"
    if status in (None, _OWN_FAILURE):
        for pattern, cls, text in _REASONS:
            found = re.search(pattern, said)
            if found:
                line = next((line for line in lines if found[0] in line), found[0])
                reason = f"{address}: {text.format(by_hand=by_hand, line=line)}"
                return cls(reason, **({"address": address} if cls is DaemonUnreachable else {}))
        reason = f"{what or 'ssh ended'}: {last}. See what {by_hand} says"
    elif status == _NOT_FOUND and re.search(r"exec: .*not found", said):
        reason = f"there is no ssh on this machine ({last}): install OpenSSH's client, or name a program by $PLOVER_SSH"
    elif status == _NOT_FOUND:
        reason = (
            f"plover is not to be found there ({last}): install plover-gpu on that host, or say where it is with "
            'command = "/path/of/plover" in a profile of this host'
        )
    else:
        reason = f"`plover whereabouts` failed there with exit status {status}: {last}"
    return DaemonUnreachable(f"{address}: {reason}", address=address)


#: ssh's exit status for what failed on its side, and a shell's for a program that is not there.
_OWN_FAILURE = 255
_NOT_FOUND = 127
_REASONS: tuple[tuple[str, type[PloverError], str], ...] = (
    (
        r"Could not resolve hostname",
        DaemonUnreachable,
        "there is no such host ({line}): see whether the name is right, and whether this machine is in its network",
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        AccessDenied,
        "the host shows another key than before: it was set up anew, or it is not the host. Ask its operator, then see "
        "{by_hand}",
    ),
    (
        r"Host key verification failed",
        AccessDenied,
        "ssh does not know this host's key: run {by_hand} once by hand, compare the fingerprint that it shows, and say "
        "yes",
    ),
    (
        r"Permission denied",
        AccessDenied,
        "the host did not let us in ({line}). Without a terminal ssh cannot ask for a password: let it use a key "
        "(ssh-copy-id, an agent), until {by_hand} needs nothing typed",
    ),
    (r"Connection refused", DaemonUnreachable, "the host is there, and no sshd listens at its port ({line})"),
    (
        r"(timed out|No route to host|Network is unreachable)",
        DaemonUnreachable,
        "the host does not answer ({line}): it is down or elsewhere, or a firewall keeps ssh out",
    ),
)


#: Those that run: a forked child must not hold their pipes open.
_tunnels: weakref.WeakSet[Tunnel] = weakref.WeakSet()


def _after_fork() -> None:
    for tunnel in _tunnels:
        tunnel._let_go()
    _tunnels.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

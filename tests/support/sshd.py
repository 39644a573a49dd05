"""A real sshd for tests: a process of the test's own on a high port, with keys of its own, for the user who runs the tests.

Guarantees: it reads none of the machine's ssh configuration, and `PLOVER_SSH` names a client that does not either. Sessions
carry the test's mark. Assumes: openssh-server is installed (see `needs_sshd`). As root, sshd wants the directory /run/sshd.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.daemons import PATIENCE_S, Mark, read_line
from tests.support.preconditions import needs

_SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin") or ""


def needs_sshd() -> None:
    """Skip where there is none; in CI that is a failure."""
    needs(_SSHD and shutil.which("ssh") and shutil.which("ssh-keygen"), "openssh-server and openssh-client")


class Sshd:
    """A running sshd.

    Args:
        mark: whose directory it may use.
        settings: lines for its configuration, before the others: the first one that says something wins.
        environment: of sessions.
    """

    def __init__(self, mark: Mark, *settings: str, **environment: str) -> None:
        self.directory = mark.directory / "ssh"
        self.directory.mkdir(mode=0o700)
        for name in ("host", "user", "stranger"):
            self.make_key(name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.user = getpass.getuser()
        self.address = f"ssh://{self.user}@127.0.0.1:{self.port}"
        (self.directory / "authorized").write_bytes((self.directory / "user.pub").read_bytes())
        self._install_plover()
        session = mark.environment(PATH=f"{self.directory}:{os.environ['PATH']}", **environment)
        kept = ("PATH", "PYTHONPATH", "PYTHONWARNINGS", "TMPDIR", "XDG_RUNTIME_DIR", "PLOVER_TEST_MARK", *environment)
        config = [
            *settings,
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.directory}/host",
            f"AuthorizedKeysFile {self.directory}/authorized",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "SetEnv " + " ".join(f'"{name}={session[name]}"' for name in kept),
        ]
        (self.directory / "sshd_config").write_text("\n".join(config) + "\n")
        self.trust_host()
        self.ssh = self._write_client_config("user")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.process = subprocess.Popen(
            [_SSHD, "-D", "-e", "-f", str(self.directory / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=mark.environment(),
        )
        while "listening on" not in (line := read_line(self.process.stderr)):
            assert line, "sshd ended"

    def make_key(self, name: str, passphrase: str = "") -> Path:
        """A key pair, in the directory."""
        path = self.directory / name
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
        subprocess.run(keygen, check=True, timeout=PATIENCE_S)
        return path

    def _install_plover(self) -> None:
        program = self.directory / "plover"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m plover.cli.main "$@"\n')
        program.chmod(0o755)

    def remove_plover(self) -> None:
        """As on a host where nobody installed it."""
        (self.directory / "plover").unlink()

    def trust_host(self, key: str = "host") -> None:
        """The client knows the host by this key."""
        public = (self.directory / f"{key}.pub").read_text()
        (self.directory / "known").write_text(f"[127.0.0.1]:{self.port} {public}")

    def _write_client_config(self, key: str) -> str:
        config = self.directory / f"{key}_config"
        config.write_text(
            f"IdentityFile {self.directory}/{key}\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {self.directory}/known\nGlobalKnownHostsFile none\nStrictHostKeyChecking ask\n"
            # What a person may have there for other purposes, and would be in the way of a tunnel.
            f"LocalForward {self.port} 127.0.0.1:{self.port}\nRemoteCommand false\nRequestTTY force\n"
        )
        return f"ssh -F {config}"

    def ssh_with(self, key: str) -> str:
        """For ``PLOVER_SSH``: a client with another key."""
        return self._write_client_config(key)

    def close(self) -> None:
        """End it, and its sessions."""
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def sshd(mark: Mark, *settings: str, **environment: str) -> Iterator[Sshd]:
    """An sshd of the test's own."""
    running = Sshd(mark, *settings, **environment)
    try:
        yield running
    finally:
        running.close()

"""What `plover status` shows: a JSON document of what the daemon knows of itself.

Guarantees: it names no secret, no token and no payload. docs/wire.md describes it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from plover.daemon.config import limits_table
from plover.versions import versions

if TYPE_CHECKING:
    from plover.daemon.shell import Shell


def document(shell: Shell, now: float) -> bytes:
    """The daemon's state as JSON."""
    snapshot = msgspec.to_builtins(shell.scheduler.snapshot())
    for client in snapshot["clients"]:
        client["silent_s"] = round(now - client.pop("seen_at"), 3)
    content: dict[str, Any] = {
        "pid": os.getpid(),
        "addresses": list(shell.config.addresses),
        "incarnation": f"{shell.incarnation:x}",
        "uptime_s": round(now - shell.started, 3),
        "launcher": shell.config.launcher,
        "versions": msgspec.structs.asdict(versions()),
        "pids": {worker.number: worker.pid or None for worker in shell.workers},
        "functions": len(shell.functions),
        "segments": shell.lending.document(),
        "full": shell.post.doors.shut,
        "refused_messages": dict(shell.post.refused),
        "limits": limits_table(shell.config),
        "scheduler": snapshot,
    }
    return msgspec.json.encode(content)

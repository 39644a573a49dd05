"""Before an attempt: its modules made importable, or the reason why this worker, or none, can run it.

Guarantees: it runs before the attempt counts as begun, so that one which is sent away here has spent nothing. Whatever is
wrong with the client's modules is that call's failure; only what another worker could do better is not.
"""

from __future__ import annotations

from collections.abc import Mapping

from plover.bundles.format import Buffer, BundleSet
from plover.errors import NotSerializable, PloverError
from plover.wire import codec
from plover.wire import messages as m
from plover_runtime.modules import Modules, ModulesConflict

__all__ = ["Unfit", "admit", "admit_run"]

_NONE = BundleSet()


class Unfit(Exception):
    """This worker cannot take the call's modules beside those that it has; a fresh one can."""


def admit_run(modules: Modules, incoming: codec.Incoming[m.Run]) -> Exception | None:
    """`admit`, with what an attempt's message says and brings."""
    run = incoming.message
    if not run.bundles:
        return admit(modules, run.modules or _NONE, {})
    return admit(modules, run.modules or _NONE, {digest: incoming.take((data,))[0] for digest, data in run.bundles})


def admit(modules: Modules, wanted: BundleSet, bundles: Mapping[bytes, Buffer]) -> Exception | None:
    """Make a call's modules importable.

    Returns:
        What the call fails with, because no worker could run it; None if this one can.

    Raises:
        BundlesAbsent: some of them must be sent.
        Unfit: another worker is needed.
    """
    try:
        modules.activate(wanted, bundles)
    except ModulesConflict as conflict:
        if not conflict.final:
            raise Unfit(str(conflict)) from None
        return NotSerializable(str(conflict), path=conflict.module)
    except PloverError as error:
        return error
    except OSError as error:
        return PloverError(
            f"the worker cannot keep your modules in {error.filename or modules.directory} ({error.strerror or error}): have "
            "the daemon's operator make room there, or start it with another --state-dir"
        )
    return None

"""Which devices can serve a call: one rule, for the daemon that places it and for the client that chooses among daemons.

Pure, and imports nothing of Plover. Guarantees: whoever asks for a GPU, in any words, is never given a simulated one.
"""

from __future__ import annotations

__all__ = ["suits"]


def suits(kind: str, model: str, asked: str | None, require_gpu: bool) -> bool:
    """Whether a device can serve a call.

    Args:
        kind: the device's, ``"cuda"`` or ``"simulated"``.
        model: the device's.
        asked: a part of a model's name, in any case (``""`` for any GPU); None where the call has no ``gpu=``.
        require_gpu: the call's.

    Example:
        >>> suits("cuda", "NVIDIA H100 80GB HBM3", "h100", False), suits("simulated", "Simulated GPU", "", False)
        (True, False)
    """
    is_real = kind == "cuda"
    if asked is None:
        return is_real or not require_gpu
    return is_real and asked.lower() in model.lower()

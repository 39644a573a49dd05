"""Segments in a worker: arguments that lie in them, results that are put into them, arrays born in them.

Guarantees: when a call is over, nothing that its function kept lies in a segment: it lies in memory of the worker's own, at
the same address. So nobody sees it change, and nobody sees what is written to it. What the function writes to an argument
reaches the argument's segment, unless another attempt may follow; there nobody looks at it again. Each mapping is pinned once
on a device that can.

Assumes: one thread, but for `allocate`; every segment that a message mentions was handed over before.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import socket
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from plover import segments
from plover.borrowing import Borrower, Entry, aligned
from plover.errors import WireError
from plover.mappings import Mapping
from plover.serialize import Buffer
from plover.wire import codec
from plover.wire import messages as m
from plover_runtime.device import Device

__all__ = ["WorkerSegments", "of_worker"]

Anchor = np.ndarray[Any, Any]


class _Pinned(Entry):
    """A segment whose mapping the device knows as pinned memory."""

    device: Device

    def _map(self) -> Mapping:
        mapping = super()._map()
        with contextlib.suppress(Exception):  # a limit on pinned memory, or a driver without it: slower, not wrong
            self.device.pin(mapping.address, mapping.size_bytes)
        return mapping

    def unmap(self) -> None:
        """Unpinned first: the memory at this address will be another."""
        if self.is_mapped:
            with contextlib.suppress(Exception):
                self.device.unpin(self.mapping.address)
        super().unmap()


class _Use:
    """An array over a mapping that this call's values may look at. `entry` is None for a private one; `is_out`: what is
    written to it is to be seen by the caller.
    """

    def __init__(self, mapping: Mapping, entry: Entry | None, is_out: bool = False) -> None:
        self.mapping = mapping
        self.entry = entry
        self.is_out = is_out
        self.anchor: Anchor | None = mapping.array()
        self.is_left = weakref.ref(self.anchor)


class WorkerSegments(Borrower):
    """A worker's segments.

    Args:
        end: its end of the socket to the daemon.
        device: pins memory.
    """

    def __init__(self, end: socket.socket, device: Device) -> None:
        super().__init__(end)
        self._device = device
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._uses: dict[tuple[int, bool], _Use] = {}  # of this call's arguments, by segment and whether it is private
        self._born: dict[int, _Use] = {}  # arrays that the worker's functions made and may still have

    def make_entry(self, number: int, fd: int, size_bytes: int) -> Entry:
        """One whose mapping is pinned."""
        entry = _Pinned(number, fd, size_bytes)
        entry.device = self._device
        return entry

    # -- arguments ------------------------------------------------------------------------------------------------------

    def take(self, incoming: codec.Incoming[m.Run]) -> list[Buffer]:
        """An attempt's arguments.

        Raises:
            WireError: a segment was not handed over.
        """
        private = incoming.message.private
        buffers = incoming.take(incoming.message.arguments, lambda segment: self._open(segment, private))
        for use in self._uses.values():
            use.anchor = None  # from here on the values alone keep it
        return buffers

    def _open(self, segment: m.Segment, private: bool) -> memoryview:
        private = private and segment.use == 0
        use = self._uses.get((segment.id, private))
        if use is None:
            if segment.id not in self.entries:
                self.drain()
            entry = self.entries.get(segment.id)
            if entry is None or segment.offset + segment.size > entry.size_bytes:
                raise WireError(
                    f"the daemon mentions bytes of segment {segment.id} that it never handed over", fault="daemon"
                )
            # Fresh for each call: an old private mapping would show what it showed then.
            mapping = Mapping(entry.fd, entry.size_bytes, private=True) if private else entry.mapping
            use = self._uses[segment.id, private] = _Use(mapping, None if private else entry)
        assert use.anchor is not None
        use.is_out = use.is_out or segment.use == 2
        view = memoryview(use.anchor[segment.offset : segment.offset + segment.size])  # type: ignore[arg-type]
        return view.toreadonly() if segment.use == 1 else view

    # -- results --------------------------------------------------------------------------------------------------------

    def place(self, buffers: Sequence[Buffer], shares: bool) -> Sequence[codec.Piece]:
        """A result's buffers, the large ones in segments where the caller shares them and there are any to be had."""
        if not shares or len(buffers) < 2:
            return buffers
        pieces: list[codec.Piece] = list(buffers)
        rest = []
        for index in range(1, len(buffers)):
            buffer = buffers[index]
            size = segments.size_of(buffer)
            if size > codec.INLINE_LIMIT:
                found = self._where(buffer, size) if self._born else None
                if found is None:
                    rest.append((index, size))
                else:
                    pieces[index] = found
        offsets, total = aligned([size for _, size in rest])
        if total >= segments.THRESHOLD_BYTES:
            entry = self.borrow(total)
            if entry is not None:
                entry.fill(buffers, rest, offsets, pieces)
        for piece in pieces:
            if isinstance(piece, m.Segment):
                self.entries[piece.id].held = False  # it goes along with the result
        return pieces

    def _where(self, buffer: Buffer, size: int) -> m.Segment | None:
        address = segments.address_of(buffer)
        for use in self._born.values():
            begin = use.mapping.address
            if use.entry is not None and begin <= address and address + size <= begin + use.mapping.size_bytes:
                return m.Segment(use.entry.id, address - begin, size)
        return None

    def allocate(self, size_bytes: int) -> Anchor | None:
        """Memory in a segment for an array that is born there; None if there is none to be had. It may be called by the
        user's code, on any thread, and be interrupted by the end of its call anywhere but in here.
        """
        if os.getpid() != self._pid:  # a child of the user's code: the socket is the worker's
            return None
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with self._lock:
                entry = self.borrow(size_bytes)
                if entry is None:
                    return None
                use = self._born[entry.id] = _Use(entry.mapping, entry)
                anchor, use.anchor = use.anchor, None
                return anchor
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    # -- after a call ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The call is over, and its result is packed: whatever its function kept becomes the worker's own.

        Raises:
            OSError: there is no memory for it.
        """
        if not self._uses and not self._born:
            return
        uses, self._uses = list(self._uses.values()), {}
        for number, use in list(self._born.items()):
            assert use.entry is not None
            if not use.entry.held or use.is_left() is None:  # it went along with the result, or is not needed
                del self._born[number]
                uses.append(use)
        if any(use.is_left() is not None for use in uses):
            gc.collect()  # what a cycle keeps need not be copied; what was there at the fork is out of its sight
        for use in uses:
            if use.is_left() is not None:
                if use.entry is not None:
                    use.entry.unmap()
                use.mapping.detach()
        self.give_back([use.entry for use in uses if use.entry is not None])

    def part(self) -> None:
        """Before a fork by the user's code: arrays become each process's own, as `plover.client.segments` has it; but for
        what is to be written in place, which both see.
        """
        for use in self._uses.values():
            if use.entry is not None and not use.is_out and use.is_left() is not None:
                use.mapping.keep_private(use.entry.fd)
                use.entry.unmap()
                use.entry = None
        for number, use in list(self._born.items()):
            assert use.entry is not None
            if use.entry.held and use.is_left() is not None:
                use.mapping.keep_private(use.entry.fd)
                self.give_back((use.entry,), spoiled=True)
                del self._born[number], self.entries[number]
                use.entry.close()


def _part_before_fork(made: WorkerSegments) -> None:
    if os.getpid() == made._pid:
        made.part()


def of_worker(end: socket.socket, device: Device) -> WorkerSegments:
    """This worker's segments, in which arrays are born from now on."""
    made = WorkerSegments(end, device)
    segments.allocate_here = made.allocate
    os.register_at_fork(before=functools.partial(_part_before_fork, made))
    return made

"""An interrupt at every point of borrowing: what a borrower then believes that it holds, the daemon has lent to it."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from plover.borrowing import Borrower
from plover.wire import codec
from plover.wire import messages as m
from tests.support.interrupts import Points, interrupted

SIZE = 4096


class Lender(threading.Thread):
    """The daemon's side, which has one segment."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(daemon=True)
        self.end = end
        self.lent = False
        self.known = False
        self.fd = os.memfd_create("segment")
        os.ftruncate(self.fd, SIZE)

    def run(self) -> None:
        """Until a hello, which means nothing here, or the end."""
        while packet := self.end.recv(65536):
            match codec.FROM_BORROWER.read([packet]).message:
                case m.Borrow(request=request) if self.lent:
                    self.say(m.NotLent(request, "it is lent"))
                case m.Borrow(request=request):
                    self.lent = True
                    self.say(m.Lent(request, 7, SIZE), *(() if self.known else (self.fd,)))
                    self.known = True
                case m.Return():
                    self.lent = False
                case m.BorrowerHello():
                    return

    def say(self, message: m.ToBorrower, *fds: int) -> None:
        """A packet."""
        socket.send_fds(self.end, [codec.write(message)[0]], fds)


def strike(at: int) -> tuple[bool, bool]:
    """An answer that nobody waits for any more is to be given back, while something else is borrowed, with an interrupt at
    this point; then whatever is held is given back, and something is borrowed again.

    Returns:
        Whether there was an interrupt; and whether the segment was lost by it: it is lent to nobody until the end, which is
        the most that may happen.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    borrower, lender = Borrower(ours), Lender(theirs)
    lender.start()
    try:
        borrower.say(m.Borrow(0, SIZE))
        points = Points(at, ("plover/borrowing.py",))
        with interrupted(points):
            borrower.borrow(SIZE)
            for _ in range(3):  # a signal at its very end is noticed here
                pass
        borrower.give_back(list(borrower.entries.values()))
        entry = borrower.borrow(SIZE) or borrower.borrow(SIZE)  # the first may have come before what it gave back
        borrower.say(m.BorrowerHello(b"", b""))
        lender.join(10)
        if entry is not None:
            assert entry.held, points.struck
            assert lender.lent, f"an interrupt in {points.struck}: held, and not lent"
        return bool(points.struck), entry is None
    finally:
        borrower.close()
        theirs.close()
        os.close(lender.fd)


@pytest.mark.timeout(120)
def test_what_is_held_after_an_interrupt_is_lent() -> None:
    lost = at = 0
    while True:
        struck, is_lost = strike(at)
        if not struck:
            break
        lost += is_lost
        at += 1
    assert at > 30
    assert lost < at / 4

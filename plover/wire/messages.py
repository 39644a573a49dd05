"""Every message of Plover, with its direction, as frozen records.

Guarantees: the unions at the foot of the file say which side may send which message; the codec decodes a direction's
union and nothing else, so that a client cannot speak as a worker. Bytes that a message brings are described by `Bytes`,
the same for arguments, results, payloads and bundles.

Assumes: a `Packed` value is what `plover.serialize` wrote: the pickle stream first, then its out-of-band buffers.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from plover.bundles.format import BundleSet
from plover.wire.records import Record

# -- bytes -------------------------------------------------------------------------------------------------------------


class Inline(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Bytes inside the message's own frame: `size` bytes from `offset` of its body."""

    offset: int
    size: int


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Bytes that are a frame of their own: the `index`-th one after the message's."""

    index: int
    size: int


class Segment(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Bytes in shared memory: `size` bytes from `offset` of the segment `id`, which both sides have mapped.

    `use` says what the bytes are to who reads them: a copy of its own (0), the sender's own array, to be read only (1), or
    to be written in place (2).
    """

    id: int
    offset: int
    size: int
    use: Literal[0, 1, 2] = 0


# Large bytes in pieces become a further member of this union.
Bytes = Inline | Frame | Segment

#: A pickled value: the pickle stream, then its out-of-band buffers in order.
Packed = tuple[Bytes, ...]


#: Bundles of the author's own modules: each by its digest.
Bundles = tuple[tuple[bytes, Bytes], ...]


class Message(msgspec.Struct, frozen=True, array_like=True):
    """What every message has in common: written as an array, tagged by its name."""

    def described(self) -> Packed:
        """All bytes that the message says come with it."""
        return ()


# -- facts -------------------------------------------------------------------------------------------------------------


class Versions(msgspec.Struct, frozen=True, array_like=True):
    """What one side runs with; `packages` maps a distribution's name to its version."""

    plover: str
    python: str
    packages: dict[str, str] = {}


class HostDevices(msgspec.Struct, frozen=True, array_like=True):
    """Devices of a host that nothing tells apart."""

    kind: Literal["cuda", "simulated"]
    model: str
    count: int


class CallOptions(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a call asks of the daemon. See `GpuFunction.options` for what each means; `gpu` is (model, count)."""

    gpu: tuple[str, int] | None = None
    require_gpu: bool = False
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    retries: int = 0
    priority: int = 0
    environment: str = "default"
    log_level: int = 30
    output: Literal["show", "capture"] = "show"


class Timings(msgspec.Struct, frozen=True, array_like=True):
    """When a worker did what, in seconds of the host's monotonic clock, and on what.

    `begun` before the function and its arguments were loaded, `loaded` after, `ended` when the user's code and the
    device were done. `warm`: the function was live in the worker before.
    """

    begun: float
    loaded: float
    ended: float
    warm: bool
    simulated: bool


class Receipt(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a call cost. Seconds; `None` where nobody measured, as for a call that never ran.

    Attributes:
        queue_s: from the daemon's receiving the call to its last dispatch.
        transfer_s: between daemon and worker, there and back.
        load_s: function and arguments made live in the worker (unpickling, imports).
        run_s: the user's code and the device, compiling included.
        worker: which worker ran it.
        devices: the devices it ran on.
        attempt: 1 for the first try.
        warm: the worker already held the live function.
        simulated: it ran on a simulated device: none of these times says anything about a GPU.
        stdout: what it wrote, with ``output="capture"``.
        stderr: the same.
        records: its log records and warnings, with ``output="capture"``.
    """

    queue_s: float | None = None
    transfer_s: float | None = None
    load_s: float | None = None
    run_s: float | None = None
    worker: str | None = None
    devices: tuple[str, ...] = ()
    attempt: int = 0
    warm: bool | None = None
    simulated: bool | None = None
    stdout: str | None = None
    stderr: str | None = None
    records: tuple[Record, ...] = ()

    def __repr__(self) -> str:
        from plover.looks import receipt_text

        return receipt_text(self)

    def _repr_html_(self) -> str:
        from plover.looks import receipt_html

        return receipt_html(self)


# -- client → daemon ---------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """A client's first message. `client` names it across reconnections; `secret` is the socket's own; `pid` and `started` say
    which process it is, as `plover.wire.identity` has it (0: it cannot tell).
    """

    client: bytes
    secret: bytes
    versions: Versions
    pid: int = 0
    started: int = 0


class Submit(Message, frozen=True, tag="submit"):
    """Run a function. `submission` is the client's own number: sent twice, it is still one call.

    `payload` is None when the client believes that the daemon holds the function. `acknowledged` are submissions
    whose outcomes the client has. `modules` says what the call means by each module that it mentions (None: it mentions
    none), `bundles` are those of its own ones that the daemon is not believed to hold.
    """

    submission: int
    function: bytes
    python: str
    arguments: Packed
    options: CallOptions
    payload: Packed | None = None
    acknowledged: tuple[int, ...] = ()
    name: str = ""
    modules: BundleSet | None = None
    bundles: Bundles = ()

    def described(self) -> Packed:
        """Arguments, and payload and bundles where they come along."""
        return _described(self.arguments, self.payload, self.bundles)


class Cancel(Message, frozen=True, tag="cancel"):
    """The client does not want this call any more."""

    submission: int


class Acknowledge(Message, frozen=True, tag="ack"):
    """The client has these outcomes."""

    submissions: tuple[int, ...]


class Resume(Message, frozen=True, tag="resume"):
    """After a reconnection: what the client still waits for."""

    submissions: tuple[int, ...]


class Ping(Message, frozen=True, tag="ping"):
    """The client is alive: its lease begins anew. Is the daemon?"""


class Goodbye(Message, frozen=True, tag="goodbye"):
    """The client leaves: nobody wants its calls any more."""


class AskStatus(Message, frozen=True, tag="ask-status"):
    """The operator wants to see what runs."""


class AskToEnd(Message, frozen=True, tag="ask-to-end"):
    """The operator wants the daemon to end: after what it accepted (`drain`), or now."""

    drain: bool


# -- daemon → client ---------------------------------------------------------------------------------------------------


class Welcome(Message, frozen=True, tag="welcome"):
    """The daemon took the client's hand. `incarnation` goes into every message from now on."""

    incarnation: int
    tenant: str
    versions: Versions
    payload_limit_bytes: int
    function_limit_bytes: int
    pid: int
    devices: tuple[HostDevices, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether no device of the host is a real one."""
        return all(each.kind == "simulated" for each in self.devices)


class Rejected(Message, frozen=True, tag="rejected"):
    """A message was not taken, and why. `error` is an exception's name in `plover.errors`; `submission` is set where
    the message was a `Submit` that could be read that far; `incarnation` is the daemon's.
    """

    error: str
    reason: str
    submission: int | None = None
    incarnation: int = 0
    facts: dict[str, str | int | float | bool | None] = {}


class PayloadWanted(Message, frozen=True, tag="payload-wanted"):
    """The daemon does not hold this call's function (any more; empty if it does), or these bundles: submit it again with
    them.
    """

    submission: int
    function: bytes
    bundles: tuple[bytes, ...] = ()


class Output(Message, frozen=True, tag="output"):
    """What a call wrote to its stdout (1) or stderr (2), as it was written, or its log records and warnings (3), as
    `plover.wire.records` has them.
    """

    submission: int
    stream: Literal[1, 2, 3]
    data: bytes


class Outcome(Message, frozen=True, tag="outcome"):
    """How a call ended. A `value` or a pickled exception comes as `packed`; what the daemon itself decided comes as
    `error` (an exception's name in `plover.errors`), `reason` and `facts` (its attributes).
    """

    submission: int
    status: Literal["succeeded", "failed", "ended"]
    receipt: Receipt
    packed: Packed = ()
    error: str = ""
    reason: str = ""
    facts: dict[str, str | int | float | bool | None] = {}

    def described(self) -> Packed:
        """The value or the exception."""
        return self.packed


class Unknown(Message, frozen=True, tag="unknown"):
    """The daemon knows nothing of these submissions: they never arrived, or their results were forgotten."""

    submissions: tuple[int, ...]


class Pong(Message, frozen=True, tag="pong"):
    """The answer to `Ping`: the daemon's loop runs."""


class Status(Message, frozen=True, tag="status"):
    """The answer to `AskStatus`: a JSON document, described in docs/wire.md."""

    document: bytes


class Ending(Message, frozen=True, tag="ending"):
    """The answer to `AskToEnd`: the daemon is on its way out; `unfinished` calls are still to be done."""

    unfinished: int


# -- worker → daemon ---------------------------------------------------------------------------------------------------


class WorkerHello(Message, frozen=True, tag="worker-hello"):
    """A worker's first message, when its device is open."""

    pid: int
    versions: Versions
    opened_s: float


class Finished(Message, frozen=True, tag="finished"):
    """An attempt ended: with a value, with the user's exception, or interrupted. `records`: it wrote log records or
    warnings, which are in the pipe.
    """

    call: int
    attempt: int
    status: Literal["succeeded", "failed", "interrupted"]
    timings: Timings
    packed: Packed = ()
    records: bool = False

    def described(self) -> Packed:
        """The value or the exception."""
        return self.packed


class PayloadMissing(Message, frozen=True, tag="payload-missing"):
    """The worker does not hold this attempt's function (any more): send it again with its payload."""

    call: int
    attempt: int


class BundlesMissing(Message, frozen=True, tag="bundles-missing"):
    """The worker has not all of the author's modules that this attempt needs, but lacks these: send it again with them."""

    call: int
    attempt: int
    digests: tuple[bytes, ...]


class Unwell(Message, frozen=True, tag="unwell"):
    """The worker is of no more use (its device is broken for its process, or it cannot take a call's modules): it ends, and
    must be replaced.
    """

    reason: str


# -- daemon → worker ---------------------------------------------------------------------------------------------------


class Run(Message, frozen=True, tag="run"):
    """Run an attempt. `call_id` and `name` are for the user's eyes; `log_level` is the least that the caller wants to see;
    `modules` and `bundles` are as in `Submit`. `private`: what the function writes into its arguments must not reach their
    segments, since another attempt may follow. `shares`: the caller can take its result in a segment.
    """

    call: int
    attempt: int
    call_id: str
    name: str
    function: bytes
    arguments: Packed
    payload: Packed | None = None
    log_level: int = 30
    modules: BundleSet | None = None
    bundles: Bundles = ()
    private: bool = False
    shares: bool = False

    def described(self) -> Packed:
        """Arguments, and payload and bundles where they come along."""
        return _described(self.arguments, self.payload, self.bundles)


# -- borrower ↔ daemon (a unix socket of packets, with descriptors beside them) ----------------------------------------


class BorrowerHello(Message, frozen=True, tag="borrower-hello"):
    """A client's first packet on its borrowing socket; a worker, whose socket it was born with, says none."""

    client: bytes
    secret: bytes


class Borrow(Message, frozen=True, tag="borrow"):
    """A segment of at least so many bytes is wanted. `request` is the borrower's own number."""

    request: int
    size_bytes: int


class Return(Message, frozen=True, tag="return"):
    """The borrower does not need these any more. `spoiled`: a fork's child may still see them; nobody must use them again."""

    segments: tuple[int, ...]
    spoiled: bool = False


class Lent(Message, frozen=True, tag="lent"):
    """The answer to `Borrow`. Beside it comes the segment's descriptor, if this borrower has not got it."""

    request: int
    segment: int
    size_bytes: int


class NotLent(Message, frozen=True, tag="not-lent"):
    """The other answer to `Borrow`, and why."""

    request: int
    reason: str


class Handed(Message, frozen=True, tag="handed"):
    """A segment that a message mentions which comes next: a worker may read it, a client has it from now on, with the
    result of this submission. Beside it comes its descriptor, if this borrower has not got it.
    """

    segment: int
    size_bytes: int
    submission: int = 0


class Forgotten(Message, frozen=True, tag="forgotten"):
    """These are handed anew before they are mentioned again, if ever: the borrower gives up what it keeps of them."""

    segments: tuple[int, ...]


# -- zygote ↔ daemon (a unix socket of packets, with descriptors beside them) ------------------------------------------


class ZygoteHello(Message, frozen=True, tag="zygote-hello"):
    """A zygote's first packet. `token` is what its nest was launched with."""

    token: bytes
    pid: int


class Prepare(Message, frozen=True, tag="prepare"):
    """What the nest is for; beside it comes the daemon's pidfd. `devices` are the driver's names of its devices,
    `cache_directory` is where the tenant's bundles become files.
    """

    nest: int
    tenant: str
    environment: str
    device_kind: Literal["cuda", "simulated"]
    devices: tuple[str, ...]
    memory_bytes: int
    payload_limit_bytes: int = 4 << 30
    cache_directory: str = ""


class Prepared(Message, frozen=True, tag="prepared"):
    """Imports are done and no driver was touched: workers can be forked."""

    import_s: float
    versions: Versions


class Fork(Message, frozen=True, tag="fork"):
    """Fork a worker; beside it come its stdout, its stderr, its records' pipe, its status page, its line to the daemon and
    the socket over which it borrows segments, in this order.

    `marker` is the random word of this worker's output markers.
    """

    worker: int
    marker: bytes


class Forked(Message, frozen=True, tag="forked"):
    """A worker was forked; beside it comes its pidfd."""

    worker: int
    pid: int


class ForkFailed(Message, frozen=True, tag="fork-failed"):
    """A worker could not be forked."""

    worker: int
    reason: str


class Exited(Message, frozen=True, tag="exited"):
    """A worker's wait status. `out_of_memory`: the kernel counted a kill for memory in this nest meanwhile."""

    worker: int
    exit_code: int | None
    signal: int | None
    out_of_memory: bool


class EndNest(Message, frozen=True, tag="end-nest"):
    """Kill the workers and whatever they started, and end."""


FromClient = Hello | Submit | Cancel | Acknowledge | Resume | Ping | Goodbye | AskStatus | AskToEnd
ToClient = Welcome | Rejected | PayloadWanted | Output | Outcome | Unknown | Pong | Status | Ending
FromWorker = WorkerHello | Finished | PayloadMissing | BundlesMissing | Unwell
ToWorker = Run
FromZygote = ZygoteHello | Prepared | Forked | ForkFailed | Exited
ToZygote = Prepare | Fork | EndNest
FromBorrower = BorrowerHello | Borrow | Return
ToBorrower = Lent | NotLent | Handed | Forgotten
AnyMessage = FromClient | ToClient | FromWorker | ToWorker | FromZygote | ToZygote | FromBorrower | ToBorrower


def _described(arguments: Packed, payload: Packed | None, bundles: Bundles) -> Packed:
    if payload is not None:
        arguments = arguments + payload
    return arguments + tuple([data for _, data in bundles]) if bundles else arguments


def call_id(client: bytes, submission: int) -> str:
    """A call's name for people, the same on every side: known without asking the daemon, and unique."""
    return f"{client.hex()[:12]}-{submission}"

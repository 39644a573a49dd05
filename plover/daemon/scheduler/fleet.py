"""Nests, workers and devices: started, watched, replaced, stopped, given up.

Guarantees: whatever is started has a deadline, and whatever is told to end has one too, after which something harsher
follows (interrupt, kill the worker, stop the nest, write the nest and its devices off), so nothing is waited for
without a bound. Failed starts in a row make a device suspect (with growing pauses) and then broken. A worker that
died is replaced in its nest. Assumes: which devices a nest should be started on, and for whom, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from plover.daemon.scheduler.attempts import Attempts
from plover.daemon.scheduler.commands import KillWorker, Lost, ReadPage, StartNest, StartWorker, StopNest
from plover.daemon.scheduler.events import NestGone, PageRead, WorkerGone
from plover.daemon.scheduler.queues import FairQueues, fits
from plover.daemon.scheduler.state import DeviceRecord, Nest, Pool, Shape, Worker, World
from plover.daemon.scheduler.transitions import move_device, move_nest, move_worker

_LONGEST_BACKOFF_S = 60.0


class Fleet:
    """Everything between the devices and the calls."""

    def __init__(self, world: World, queues: FairQueues, attempts: Attempts) -> None:
        self._world = world
        self._queues = queues
        self._attempts = attempts
        self.news_of_broken = False  # a device broke in this event: some demands may have become impossible

    # -- starting ------------------------------------------------------------------------------------------------------

    def start_nest(
        self, tenant: str, environment: str, devices: Iterable[DeviceRecord], now: float, *, prewarmed: bool = False
    ) -> None:
        """Bring a nest to life on devices that nobody holds."""
        world = self._world
        chosen = tuple(devices)
        shape = tuple(sorted((each.config.kind, each.config.model) for each in chosen))
        pool = self._pool(tenant, environment, shape)
        nest = Nest(
            number=world.next_nest(),
            pool=pool,
            devices=chosen,
            device_ids=tuple(each.config.id for each in chosen),
            kinds=tuple({(each.config.kind, each.config.model): each.kind_of for each in chosen}.values()),
            prewarmed=prewarmed,
        )
        for device in chosen:
            device.nest = nest
            device.claim = None
            device.prewarm = False
            device.kind_of.free.pop(device.config.id, None)
        world.nests[nest.number] = nest
        pool.nests += 1
        self._set_coming(nest, True)
        nest.timer = world.arm(now + world.limits.nest_start_s, nest)
        world.commands.append(
            StartNest(nest=nest.number, tenant=tenant, environment=environment, devices=nest.device_ids)
        )

    def _pool(self, tenant: str, environment: str, shape: Shape) -> Pool:
        pools = self._world.pools.setdefault((tenant, environment), [])
        for pool in pools:
            if pool.key[2] == shape:
                return pool
        pool = Pool(key=(tenant, environment, shape))
        pools.append(pool)
        for demand in self._queues.demands.values():
            if demand.key[:2] == pool.key[:2] and fits(demand, shape):
                demand.pools.append(pool)
                pool.demands.append(demand)
        return pool

    def _set_coming(self, nest: Nest, coming: bool) -> None:
        if nest.coming != coming:
            nest.coming = coming
            change = 1 if coming else -1
            nest.pool.starting += change
            for demand in nest.pool.demands:
                demand.starting += change
                self._world.seek(demand)

    def nest_ready(self, nest: Nest, now: float) -> bool:
        """A nest can fork workers now. False where it was known, or the nest is on its way out."""
        if nest.state != "creating":
            return False
        move_nest(nest, "warmed")
        _disarm(nest)
        self._start_worker(nest, now)
        return True

    def _start_worker(self, nest: Nest, now: float) -> None:
        world = self._world
        worker = Worker(number=world.next_worker(), nest=nest)
        world.workers[worker.number] = worker
        nest.workers.append(worker)
        self._set_coming(nest, True)
        worker.timer = world.arm(now + world.limits.worker_start_s, worker)
        world.commands.append(StartWorker(worker=worker.number, nest=nest.number))

    def worker_ready(self, worker: Worker) -> bool:
        """A worker can take calls. False where it was known, or the worker is on its way out."""
        if worker.state != "starting":
            return False
        move_worker(worker, "opened")
        _disarm(worker)
        for device in worker.nest.devices:
            device.failures = 0
            if device.state == "suspect":
                move_device(device, "opened")
        self._set_coming(worker.nest, False)
        self._attempts.file_idle(worker)
        self._world.offers.append(worker)
        return True

    def _start_failed(self, nest: Nest, reason: str, now: float) -> None:
        world, limits = self._world, self._world.limits
        for device in nest.devices:
            device.failures += 1
            device.last_failure = reason
            if device.failures >= limits.start_failures:
                self._give_up(device)
                continue
            move_device(device, "start_failed")
            _disarm(device)
            pause_s = min(limits.start_backoff_s * 2.0 ** (device.failures - 1), _LONGEST_BACKOFF_S)
            device.timer = world.arm(now + pause_s, device)

    def _give_up(self, device: DeviceRecord) -> None:
        if device.state != "broken":
            move_device(device, "given_up")
            _disarm(device)
            device.kind_of.free.pop(device.config.id, None)
            device.kind_of.usable -= 1
            device.prewarm = False
            self.news_of_broken = True

    # -- ending --------------------------------------------------------------------------------------------------------

    def stop_nest(self, nest: Nest, reason: str, now: float) -> None:
        """End a nest; what its workers were doing ends with them."""
        world = self._world
        if nest.state == "stopping":
            return
        move_nest(nest, "stopped")
        nest.stop_reason = reason
        _disarm(nest)
        nest.timer = world.arm(now + world.limits.nest_start_s, nest)
        self._set_coming(nest, False)
        for worker in nest.workers:
            _disarm(worker)
            if worker.state != "draining":
                self._attempts.unfile(worker)
                move_worker(worker, "nest_stopped")
        world.commands.append(StopNest(nest=nest.number))

    def kill(self, worker: Worker, reason: str, now: float) -> None:
        """Kill a worker that is draining, or is busy with a call that must end."""
        if worker.state == "busy":
            move_worker(worker, "killed")
            self._attempts.unfile(worker)
        worker.killed = True
        _disarm(worker)
        if worker.nest.state == "warm":
            worker.timer = self._world.arm(now + self._world.limits.stop_grace_s, worker)
        self._world.commands.append(KillWorker(worker=worker.number, reason=reason))

    def renew(self, worker: Worker, now: float) -> None:
        """Have an idle worker's place taken by a fresh one, which can take modules that this one cannot."""
        move_worker(worker, "renewed")
        worker.renewed = True
        self._attempts.unfile(worker)
        self.kill(worker, "a call that waits needs another version of the author's modules", now)
        self._set_coming(worker.nest, True)

    def unwell(self, worker: Worker, reason: str, now: float) -> bool:
        """A worker's context is broken: nothing more goes to it, and it has a moment to leave by itself."""
        if worker.state not in ("ready", "busy"):
            return False
        move_worker(worker, "unwell")
        worker.unwell = reason
        self._attempts.unfile(worker)
        _disarm(worker)
        worker.timer = self._world.arm(now + self._world.limits.interrupt_grace_s, worker)
        return True

    def worker_gone(self, worker: Worker, event: WorkerGone, now: float) -> None:
        """A worker is dead: its calls are lost or go back, and another takes its place."""
        nest, how = worker.nest, _death(worker, event)
        if worker.state == "starting":
            self._start_failed(nest, how, now)
        lost = Lost(how, event.exit_code, event.signal, event.out_of_memory, worker.unwell)
        self._bury(worker, event.begun, lost, now)
        self.revive(nest, now)

    def _bury(self, worker: Worker, begun: tuple[int, int] | None, lost: Lost, now: float) -> None:
        world, attempts = self._world, self._attempts
        _disarm(worker)
        attempts.unfile(worker)
        move_worker(worker, "died")
        self._set_coming(worker.nest, False)
        for function in list(worker.known):
            attempts.unlearn(worker, function)
        del world.workers[worker.number]
        worker.nest.workers.remove(worker)
        attempts.worker_died(worker, begun, lost, now)

    def revive(self, nest: Nest, now: float) -> None:
        """Start a worker in a warm nest that has none, unless its devices are backing off; stop it if one is broken."""
        if nest.state != "warm" or nest.workers:
            return
        if any(device.state == "broken" for device in nest.devices):
            self.stop_nest(nest, "its device is broken", now)
        elif not any(device.timer for device in nest.devices):
            self._start_worker(nest, now)

    def nest_gone(self, nest: Nest, event: NestGone, now: float) -> None:
        """A nest is dead, and with it its workers; its devices are free for others."""
        world = self._world
        if nest.state == "creating":
            self._start_failed(nest, f"nest {nest.number} did not start: {event.reason}", now)
        elif any(worker.state == "starting" for worker in nest.workers):
            self._start_failed(nest, f"nest {nest.number} ended while a worker of it started: {event.reason}", now)
        why = nest.stop_reason or event.reason
        move_nest(nest, "died")
        _disarm(nest)
        self._set_coming(nest, False)
        for worker in list(nest.workers):
            # Nobody read its page. Any of its calls may have begun, and may then not run again unasked.
            last = worker.sent[-1] if worker.sent else None
            begun = None if last is None else (last.number, last.attempt)
            self._bury(worker, begun, Lost(f"worker {worker.number} ended with nest {nest.number}: {why}"), now)
        del world.nests[nest.number]
        self._leave_pool(nest.pool)
        for device in nest.devices:
            device.nest = None
            device.prewarm = nest.prewarmed and device.state != "broken"
            world.free_up(device)

    def _leave_pool(self, pool: Pool) -> None:
        pool.nests -= 1
        if not pool.nests:
            siblings = self._world.pools[pool.key[:2]]
            siblings.remove(pool)
            if not siblings:
                del self._world.pools[pool.key[:2]]
            for demand in pool.demands:
                demand.pools.remove(pool)

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def worker_rang(self, worker: Worker, now: float) -> None:
        """A worker did not start, did not leave, or did not die in time."""
        worker.timer = None
        if worker.state == "starting":
            # With its nest: a zygote that does not fork, or whose worker hangs in a driver, would fail the next one, too.
            reason = f"worker {worker.number} was not ready within {self._world.limits.worker_start_s:g} s"
            self.stop_nest(worker.nest, reason, now)
            self._start_failed(worker.nest, reason, now)
        elif worker.state == "ready":
            pass  # it was busy when this was armed
        elif worker.state == "busy":
            silent_since = max(worker.sent[0].dispatched_at, worker.finished_at)
            due = silent_since + self._attempts.silence_allowed_s(worker.sent[0])
            if due <= now:
                worker.page_wanted = True
                self._world.commands.append(ReadPage(worker=worker.number))
                due = now + self._world.limits.interrupt_grace_s  # asked again should the answer be lost
            worker.timer = self._world.arm(due, worker)
        elif not worker.killed:
            self.kill(worker, f"it is unwell and did not exit: {worker.unwell}", now)
        else:
            self.stop_nest(worker.nest, f"worker {worker.number} could not be killed", now)

    def page_read(self, worker: Worker, event: PageRead, now: float) -> bool:
        """Judge whether a worker that has ended nothing for long does anything. False where nobody asked for that."""
        if not worker.page_wanted or worker.state != "busy":
            return False
        worker.page_wanted = False
        _disarm(worker)
        limit_s = self._attempts.silence_allowed_s(worker.sent[0])
        silent_since = max(worker.sent[0].dispatched_at, worker.finished_at, event.moved_at)
        if event.begun is None and silent_since + limit_s <= now:
            worker.unwell = f"it was sent a call {now - silent_since:.3g} s ago and has not begun it (is it stopped?)"
            self.kill(worker, worker.unwell, now)
        else:
            worker.timer = self._world.arm((now if event.begun else silent_since) + limit_s, worker)
        return True

    def nest_rang(self, nest: Nest, now: float) -> None:
        """A nest did not start in time, or cannot be ended."""
        nest.timer = None
        limit_s = self._world.limits.nest_start_s
        if nest.state == "creating":
            reason = f"nest {nest.number} was not ready within {limit_s:g} s"
            self.stop_nest(nest, reason, now)
            self._start_failed(nest, reason, now)
        else:
            self.write_off(nest, f"it could not be ended within {limit_s:g} s ({nest.stop_reason})", now)

    def write_off(self, nest: Nest, reason: str, now: float) -> None:
        """Take a nest that will not end for gone, and its devices, which it may still hold, for broken."""
        for device in nest.devices:
            device.last_failure = f"nest {nest.number}: {reason}"
            self._give_up(device)
        self.nest_gone(nest, NestGone(nest=nest.number, reason=reason), now)

    def device_rang(self, device: DeviceRecord, now: float) -> None:
        """A device has backed off for long enough."""
        device.timer = None
        if device.nest is not None:
            self.revive(device.nest, now)
        else:
            self._world.free_up(device)


def _disarm(owner: Nest | Worker | DeviceRecord) -> None:
    timer = owner.timer
    if timer is not None:
        timer.rank = 0
        owner.timer = None


def _death(worker: Worker, event: WorkerGone) -> str:
    """How a worker ended, in words."""
    if event.out_of_memory:
        how = "was killed because memory ran out"
    elif event.signal is not None:
        how = f"was ended by signal {event.signal}"
    elif event.exit_code is not None:
        how = f"exited with code {event.exit_code}"
    else:
        how = "ended"
    if worker.state == "starting":
        how += " before it was ready"
    if event.reason:
        how += f" ({event.reason})"
    return f"worker {worker.number} {how}" + (f"; before, it was given up: {worker.unwell}" if worker.unwell else "")

"""News of the launcher: nests that are warm or ended, workers that were forked or died.

Guarantees: what a worker sent before it died comes before its death. Assumes: one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import assert_never

from plover.daemon.launchers import base
from plover.daemon.lending import Lending
from plover.daemon.lines import Lines
from plover.daemon.outcomes import death
from plover.daemon.output import Piece
from plover.daemon.pipes import Pipes
from plover.daemon.scheduler import events as e
from plover.daemon.workers import Workers

__all__ = ["News"]

log = logging.getLogger("plover.daemon")


class News:
    """Takes news and makes events of them.

    Args:
        launcher: whose news.
        workers, lines, lending, pipes: the daemon's books.
        happen: takes an event and the time.
        show: takes what workers wrote.
    """

    def __init__(
        self,
        *,
        launcher: base.Launcher,
        workers: Workers,
        lines: Lines,
        lending: Lending,
        pipes: Pipes,
        happen: Callable[[e.AnyEvent, float], None],
        show: Callable[[list[Piece]], None],
    ) -> None:
        self._launcher = launcher
        self._workers = workers
        self._lines = lines
        self._lending = lending
        self._pipes = pipes
        self._happen = happen
        self._show = show

    def due(self) -> float | None:
        """When `keep_time` has something to do."""
        return self._launcher.next_deadline()

    def keep_time(self, now: float) -> None:
        """Let the launcher look at its clock."""
        due = self._launcher.next_deadline()
        if due is not None and now >= due:
            self.take(now)

    def take(self, now: float) -> None:
        """Whatever the launcher has to tell."""
        for news in self._launcher.news():
            match news:
                case base.NestPrepared(nest=nest):
                    log.info("nest %d is warm after %.2f s (pid %d)", nest, news.import_s, news.pid)
                    self._happen(e.NestReady(nest=nest), now)
                case base.NestEnded(nest=nest, reason=reason):
                    log.info("nest %d ended: %s", nest, reason)
                    self._workers.tenants.pop(nest, None)
                    self._happen(e.NestGone(nest=nest, reason=reason), now)
                case base.WorkerForked(worker=number, pid=pid):
                    worker = self._workers.find(number)
                    if worker is not None:
                        worker.pid = pid
                case base.WorkerEnded():
                    self._worker_ended(news, now)
                case _:
                    assert_never(news)

    def _worker_ended(self, news: base.WorkerEnded, now: float) -> None:
        worker = self._workers.find(news.worker)
        if worker is None:
            return
        self._lines.close(worker, now)
        self._lending.worker_ended(worker.number, now)
        self._workers.remove(news.worker)
        self._show(worker.output.drain())
        self._pipes.forget(worker)
        log.info("%s ended: %s", worker.name, death(news.exit_code, news.signal, news.reason, news.out_of_memory))
        self._happen(
            e.WorkerGone(
                worker=worker.number,
                begun=worker.last_begun(now),
                exit_code=news.exit_code,
                signal=news.signal,
                out_of_memory=news.out_of_memory,
                reason=news.reason,
            ),
            now,
        )
        worker.close()

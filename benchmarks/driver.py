"""The process of one contestant's client: takes commands as lines of JSON, and answers each with a line.

    python -m benchmarks.driver NAME                what `benchmarks.stage` starts, in the contestant's environment
    python -m benchmarks.driver NAME --first ADDRESS    a fresh client: one call, a line, the end

Guarantees: nothing but answers goes to the stdout that it was started with; what the contestant prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from benchmarks.contestant import ENTRIES, Contestant
from benchmarks.measure import Measure


class Driver:
    """One contestant, started and stopped as commanded."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._contestant: Contestant | None = None
        self._measure: Measure | None = None

    def do(self, command: str, **arguments: Any) -> Any:
        """One command."""
        if command == "start":
            self._contestant = ENTRIES[self._name].load()
            self._contestant.start(**arguments)
            self._contestant.naps(100 * arguments["workers"], 0.01)  # until all workers are warm
            self._measure = Measure(self._contestant, **arguments)
            return self._contestant.address()
        if command == "stop":
            contestant, self._contestant = self._contestant, None
            if contestant is not None:
                contestant.stop()
            return None
        return getattr(self._measure, command)(**arguments)


def main() -> None:
    """Until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.set_inheritable(answers.fileno(), False)
    os.dup2(2, 1)
    driver = Driver(sys.argv[1])
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"value": driver.do(**command)}
        except BaseException as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


def first(name: str, address: str) -> None:
    """One call of a client that has just begun; without a contestant's name, what any client with NumPy needs."""
    if name in ENTRIES:
        contestant = ENTRIES[name].load()
        contestant.attach(address)
        contestant.call()
    os.write(1, b"done\n")
    if name in ENTRIES and not address:
        contestant.stop()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        first(sys.argv[1], sys.argv[3])
    else:
        main()

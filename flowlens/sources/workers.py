"""Threads that read ahead, and how many requests an account gets at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import chain
from typing import Any

_Tasks = list[tuple[Future[Any], Callable[[], Any]]]


class Gate:
    """How many requests an account gets at once: fewer when it throttles, more again as it answers."""

    def __init__(self, limit: int) -> None:
        self._changed = threading.Condition()
        self._most = self._limit = limit
        self._inside = self._answered = 0

    def enter(self, stopped: threading.Event) -> None:
        with self._changed:
            while self._inside >= self._limit:
                if stopped.is_set():
                    break
                self._changed.wait(0.5)
            self._inside += 1

    def is_narrow(self) -> bool:
        """Whether the account throttled lately."""
        return self._limit < self._most

    def leave(self, *, throttled: bool) -> None:
        with self._changed:
            self._inside -= 1
            if throttled:
                self._limit, self._answered = max(1, self._limit // 2), 0
            else:
                self._answered += 1
                if self._answered >= 4 * self._limit:
                    self._limit, self._answered = min(self._most, self._limit + 1), 0
            self._changed.notify_all()


class Workers:
    """Daemon threads that run tasks, urgent ones first; a thread that hangs in a read never holds up the end of the process."""

    def __init__(self, count: int, stopped: threading.Event) -> None:
        self._tasks: deque[_Tasks] = deque()
        self._changed = threading.Condition()
        self._stopped = stopped
        self._count = count
        self._idle = self._started = 0

    def submit(self, *tasks: Callable[[], Any], urgent: bool) -> list[Future[Any]]:
        """What the tasks will give; one thread runs them one after the other."""
        together: _Tasks = [(Future(), task) for task in tasks]
        with self._changed:
            (self._tasks.appendleft if urgent else self._tasks.append)(together)
            if self._idle < len(self._tasks) and self._started < self._count:
                self._started += 1
                threading.Thread(target=self._run, daemon=True, name="flowlens-read").start()
            self._changed.notify()
        return [future for future, _ in together]

    def hasten(self, future: Future[Any]) -> None:
        """Put a waiting task before all others, since someone waits for it."""
        with self._changed:
            for together in self._tasks:
                if any(waiting is future for waiting, _ in together):
                    self._tasks.remove(together)
                    self._tasks.appendleft(together)
                    return

    def stop(self) -> None:
        with self._changed:
            self._stopped.set()
            waiting = list(self._tasks)
            self._tasks.clear()
            self._changed.notify_all()
        for future, _ in chain.from_iterable(waiting):
            future.cancel()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._tasks and not self._stopped.is_set():
                    self._changed.wait()
                self._idle -= 1
                if self._stopped.is_set():
                    return
                together = self._tasks.popleft()
            for future, task in together:
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(task())
                except BaseException as error:  # noqa: BLE001 - whatever it is, who waits for the result gets it
                    future.set_exception(error)

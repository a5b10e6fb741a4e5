"""Ctrl-C and termination as one exception that ends a run for certain."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

_AGAIN = 0.05
"""Seconds until a signal is raised once more where its exception was swallowed."""


class Interrupts:
    """SIGINT and SIGTERM as KeyboardInterrupt in the main thread; ``number`` is the signal that came, None without one.

    Python swallows an exception that a handler raises while a finaliser or a weak reference's callback runs; such a one is
    raised again, so that no signal is lost. A signal that is ignored, as under nohup, stays ignored.

    >>> with Interrupts() as interrupts:
    ...     try:
    ...         signal.raise_signal(signal.SIGTERM)
    ...     except KeyboardInterrupt:
    ...         interrupts.number == signal.SIGTERM
    True
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._handlers: dict[int, Any] = {}
        self._before: Callable[[Any], object] = sys.unraisablehook
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Interrupts:
        self._before = sys.unraisablehook
        # Python runs handlers in the main thread alone, and lets no other thread set them.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._raise)
            sys.unraisablehook = self._swallowed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if threading.current_thread() is threading.main_thread():
            sys.unraisablehook = self._before

    def _raise(self, number: int, _frame: FrameType | None) -> NoReturn:
        self.number = number
        raise KeyboardInterrupt

    def _swallowed(self, unraisable: Any) -> None:
        if self.number is None or not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._before(unraisable)
            return
        # Not at once: raised inside this very hook it would be swallowed again.
        self._timer = threading.Timer(_AGAIN, _again, (self.number,))
        self._timer.daemon = True
        self._timer.start()


def _again(number: int) -> None:
    """The signal once more, to the main thread; what that waits for ends only by one that the system sends."""
    thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and thread is not None:
        signal.pthread_kill(thread, number)
    else:
        _thread.interrupt_main(signal.Signals(number))

"""Signals as one exception: none is lost, and what the main thread waits for does not hold it up."""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from flowlens.signals import Interrupts


class Dies:
    """Gets a signal while it is taken apart, where Python swallows what the handler raises."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def waits_after_a_swallowed_signal() -> None:
    Dies()
    threading.Event().wait(30)


def test_a_signal_that_was_swallowed_ends_a_wait_all_the_same() -> None:
    began = time.monotonic()
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        waits_after_a_swallowed_signal()
    assert interrupts.number == signal.SIGTERM
    assert time.monotonic() - began < 20


def test_handlers_are_as_before_once_it_ends_and_what_is_ignored_stays_so() -> None:
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGTERM)
            assert interrupts.number is None
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, ignored)
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before

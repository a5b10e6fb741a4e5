"""Signals as one exception: none is lost, and what the main thread waits for does not hold it up."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from flowlens.signals import Interrupts


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """SIGINT and SIGTERM as Python sets them, also where the tests run under nohup."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before:
        signal.signal(number, handler)


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


@pytest.mark.parametrize("ignored", [(), (signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM)], ids=str)
def test_handlers_are_as_before_once_it_ends_and_what_is_ignored_stays_so(ignored: tuple[signal.Signals, ...]) -> None:
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with Interrupts() as interrupts:
        for number in ignored:
            signal.raise_signal(number)
        assert interrupts.number is None
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before

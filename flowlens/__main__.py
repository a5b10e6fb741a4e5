"""The command line, as ``python -m flowlens`` and as ``flowlens``."""

import atexit
import contextlib
import os
import signal
import sys
from typing import NoReturn

# What flowlens frees is wanted soon again, but not by the same library: polars and pyarrow would each keep it for themselves
# for ten seconds. Measured on 300 MB of logs: 290 instead of 410 MB at the peak. Read once, when the libraries are loaded;
# what the user has set stays.
_ALLOCATORS = {
    "_RJEM_MALLOC_CONF": "narenas:1,dirty_decay_ms:50,muzzy_decay_ms:0",
    "ARROW_DEFAULT_MEMORY_POOL": "jemalloc",
}
# What polars sets itself where nothing is set, and a process that it starts inherits: no choice of the user's.
_OWN_OF_POLARS = "dirty_decay_ms:500,muzzy_decay_ms:1000"
# On a machine that is busy what waits to be given back waits longer, and how much that is differs by 70 MB from run to run. Whoever
# sets a limit below `flowlens.budget.ROOMY` wants it kept, and pays for it with a third more CPU: nothing waits.
_AT_ONCE = "narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0"


def main() -> None:
    """Run the command line and leave with its exit code."""
    if sys.platform == "linux":
        if os.environ.get("_RJEM_MALLOC_CONF") == _OWN_OF_POLARS:
            del os.environ["_RJEM_MALLOC_CONF"]
        if _has_tight_limit(sys.argv):
            os.environ.setdefault("_RJEM_MALLOC_CONF", _AT_ONCE)
        for name, value in _ALLOCATORS.items():
            os.environ.setdefault(name, value)
    try:
        from flowlens.cli import main as run

        code = run()
    except KeyboardInterrupt:
        # While the libraries are still being loaded; from there on the command line itself hears it.
        sys.stderr.write("stopped\n")
        code = 128 + signal.SIGINT
    if code > 128:
        _leave(code)
    sys.exit(code)


def _has_tight_limit(words: list[str]) -> bool:
    """Whether a limit of memory is asked for that leaves nothing to spare; one that can't be read is told later."""
    for at, word in enumerate(words):
        name, _, size = word.partition("=")
        if name == "--memory-limit":
            from flowlens.budget import ROOMY, parse_size
            from flowlens.errors import ConfigError

            try:
                return parse_size(size or "".join(words[at + 1 : at + 2])) < ROOMY
            except ConfigError:
                return True
    return False


def _leave(code: int) -> NoReturn:
    """End the process at once after a signal.

    What the run made is put away by then. Python would go on to wait for threads that a server keeps waiting, and take all
    libraries apart, which is half a second of work: ten on a machine that is busy.
    """
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()

"""Whether the compiled kernel is at work: `flowlens._kernel` where it was built, unless the environment says otherwise.

It decodes and rolls up several times as fast as the portable way, and gives the same. FLOWLENS_ENGINE=portable leaves it aside,
FLOWLENS_ENGINE=compiled insists on it.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from flowlens.errors import ConfigError

_kernel: ModuleType | None = None
_reason = ""
try:
    _kernel = import_module("flowlens._kernel")
except ImportError as _error:
    _reason = "no module" if isinstance(_error, ModuleNotFoundError) else str(_error)

VARIABLE = "FLOWLENS_ENGINE"
ENGINES = ("compiled", "portable")


def compiled() -> ModuleType | None:
    """The compiled kernel; None where the portable way serves.

    Raises ConfigError where FLOWLENS_ENGINE asks for what is not there.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", *ENGINES):
        raise ConfigError(
            VARIABLE, f"expected one of {', '.join(ENGINES)}, found {wanted!r:.40}", hint=f"unset {VARIABLE}"
        )
    if wanted == "compiled" and _kernel is None:
        raise ConfigError(
            VARIABLE,
            f"the compiled kernel is not installed ({_reason})",
            hint="install flowlens where a C compiler is, or unset it: the portable engine gives the same, only slower",
        )
    return None if wanted == "portable" else _kernel


def engine() -> str:
    """Which engine is at work, for a person.

    >>> engine().split()[0] in ENGINES
    True
    """
    if compiled() is not None:
        return "compiled kernel"
    if _kernel is not None:
        return f"portable decoder ({VARIABLE}=portable)"
    return f"portable decoder (compiled kernel not installed: {_reason})"

"""Whether the compiled kernel is at work: the modules of this package where they were built, unless the environment says otherwise.

It decodes and rolls up several times as fast as the portable way, and gives the same. FLOWLENS_ENGINE=portable leaves it aside,
FLOWLENS_ENGINE=compiled insists on it. The modules are of use together only: without any one of them the portable way serves.
``text`` reads bytes, ``words`` numbers texts and addresses, ``records`` reads records, ``reader`` gives them as columns, and
``rollup`` sums them up.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from flowlens.errors import ConfigError

if TYPE_CHECKING:
    from flowlens.kernel.reader import Reader
    from flowlens.kernel.rollup import Rollup


class Kernel(NamedTuple):
    """The compiled classes that others use."""

    Reader: type[Reader]
    Rollup: type[Rollup]


_kernel: Kernel | None = None
_reason = ""
try:
    _kernel = Kernel(
        import_module("flowlens.kernel.reader").Reader,
        import_module("flowlens.kernel.rollup").Rollup,
    )
except (ImportError, ValueError) as _error:
    # A ValueError says that the modules were not built from the same source.
    _reason = "no module" if isinstance(_error, ModuleNotFoundError) else str(_error)

VARIABLE = "FLOWLENS_ENGINE"
ENGINES = ("compiled", "portable")


def compiled() -> Kernel | None:
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

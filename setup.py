"""The compiled kernel, where Cython and a C compiler are there; all else stands in pyproject.toml.

FLOWLENS_PURE=1 leaves it out, for the wheel that runs anywhere. Where the compiler is missing or fails, the installation goes on
without it, and flowlens with its portable decoder. The modules are of use together only, see flowlens/kernel/__init__.py.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup

if os.environ.get("FLOWLENS_PURE") == "1" or find_spec("Cython") is None:
    kernel = []
else:
    kernel = [
        Extension(
            f"flowlens.kernel.{path.stem}",
            [path.as_posix()],
            optional=True,
            extra_compile_args=os.environ.get("FLOWLENS_KERNEL_FLAGS", "").split(),
        )
        for path in sorted(Path("flowlens/kernel").glob("*.pyx"))
    ]

# The generated C goes to the folder of the build, not beside its source.
setup(ext_modules=kernel, options={"build_ext": {"cython_c_in_temp": True}})

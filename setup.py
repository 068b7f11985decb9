"""The C extensions; everything else is in pyproject.toml.

K8STRACE_BUILD=debug compiles with bounds checks and without optimisation,
K8STRACE_BUILD=sanitize with the address and undefined-behaviour sanitizers.
"""

import os

from Cython.Compiler import Options
from setuptools import Extension, setup

BUILD = os.environ.get("K8STRACE_BUILD", "release")
SANITIZERS = "-fsanitize=address,undefined"
FLAGS = {
    "release": ["-O3", "-fno-plt"],
    "debug": ["-O0", "-g"],
    "sanitize": [
        *("-O1", "-g", "-fno-omit-frame-pointer"),
        *(SANITIZERS, "-fno-sanitize-recover=undefined"),
    ],
}
if BUILD not in FLAGS:
    raise SystemExit(f"K8STRACE_BUILD must be one of {', '.join(FLAGS)}, not {BUILD!r}")

WARNINGS = [
    *("-Wall", "-Wextra", "-Werror=sign-compare"),
    *("-Wno-unused-parameter", "-Wno-unused-function"),  # Cython's own
]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": BUILD != "release",
    "wraparound": False,
    "cdivision": True,
    # The stubs say what the module has: nothing that they don't.
    "embedsignature": False,
    "autotestdict": False,
    "auto_pickle": False,
}
Options.warning_errors = True


def extension(name: str) -> Extension:
    result = Extension(
        f"k8strace.{name}",
        [f"k8strace/{name}.pyx"],
        extra_compile_args=[*FLAGS[BUILD], *WARNINGS],
        extra_link_args=[SANITIZERS] if BUILD == "sanitize" else [],
        define_macros=[("K8STRACE_BUILD", f'"{BUILD}"')],
    )
    result.cython_directives = DIRECTIVES
    return result


setup(
    ext_modules=[extension("_fastpath")],
    # Times of files are compared, not options: without force a change of BUILD is lost.
    options={"build_ext": {"force": True, "cython_c_in_temp": True}},
)

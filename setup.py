"""The C extensions; everything else is in pyproject.toml.

K8STRACE_BUILD=debug compiles with bounds checks and without optimisation,
K8STRACE_BUILD=sanitize with the address and undefined-behaviour sanitizers.
"""

import os

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

BUILD = os.environ.get("K8STRACE_BUILD", "release")
FLAGS = {
    "release": ["-O3", "-fno-plt"],
    "debug": ["-O0", "-g"],
    "sanitize": [
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-omit-frame-pointer",
    ],
}
if BUILD not in FLAGS:
    raise SystemExit(f"K8STRACE_BUILD must be one of {', '.join(FLAGS)}, not {BUILD!r}")

Options.warning_errors = True


def extension(name: str) -> Extension:
    return Extension(
        f"k8strace.{name}",
        [f"k8strace/{name}.pyx"],
        extra_compile_args=[
            *FLAGS[BUILD],
            "-Wall",
            "-Wextra",
            "-Werror=sign-compare",
            "-Wno-unused-parameter",
            "-Wno-unused-function",
        ],
        extra_link_args=["-fsanitize=address,undefined"] if BUILD == "sanitize" else [],
        define_macros=[("K8STRACE_BUILD", f'"{BUILD}"')],
    )


setup(
    ext_modules=cythonize(
        [extension("_fastpath")],
        # cythonize compares times, not options: without force a change of BUILD is lost.
        force=True,
        compiler_directives={
            "language_level": 3,
            "boundscheck": BUILD != "release",
            "wraparound": False,
            "cdivision": True,
            "embedsignature": False,
            "autotestdict": False,
        },
    )
)

"""The C extensions; everything else is in pyproject.toml.

K8STRACE_BUILD=debug compiles with bounds checks and without optimisation,
K8STRACE_BUILD=sanitize with the address and undefined-behaviour sanitizers.
"""

import os
import tempfile
from pathlib import Path

from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

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


def extension(name: str, *libraries: str) -> Extension:
    result = Extension(
        f"k8strace.{name}",
        [f"k8strace/{name}.pyx"],
        extra_compile_args=[*FLAGS[BUILD], *WARNINGS],
        libraries=list(libraries),
        extra_link_args=[SANITIZERS] if BUILD == "sanitize" else [],
        define_macros=[("K8STRACE_BUILD", f'"{BUILD}"')],
    )
    result.cython_directives = DIRECTIVES
    return result


class BuildExt(build_ext):  # type: ignore[misc]
    def build_extensions(self) -> None:
        """Compile; a library that is missing is named, with the command that brings it."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "nghttp2.c")
            source.write_text("#include <nghttp2/nghttp2.h>\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder)
            except CompileError:
                raise SystemExit(
                    "libnghttp2's header is missing. This installs it:\n"
                    "    sudo apt-get install --yes libnghttp2-dev"
                ) from None
        super().build_extensions()


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        extension("budget"),
        extension("driver"),
        extension("_fastpath"),
        extension("_http2", "nghttp2"),
        extension("_http2_client", "nghttp2"),
        extension("_http2_server", "nghttp2"),
    ],
    # Times of files are compared, not options: without force a change of BUILD is lost.
    options={"build_ext": {"force": True, "cython_c_in_temp": True}},
)

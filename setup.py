"""The C extensions; everything else is in pyproject.toml.

K8STRACE_BUILD=debug compiles with bounds checks and without optimisation,
K8STRACE_BUILD=sanitize with the address and undefined-behaviour sanitizers,
K8STRACE_BUILD=fuzz so that a fuzzer, too, sees what is run; clang has to compile it.
"""

import os
import tempfile
from pathlib import Path

from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

BUILD = os.environ.get("K8STRACE_BUILD", "release")
SANITIZED = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
FLAGS = {
    "release": ["-O3", "-fno-plt"],
    "debug": ["-O0", "-g"],
    # gcc's runtimes report in one file only where one of them does it for both.
    "sanitize": [*SANITIZED, "-fsanitize-undefined-trap-on-error"],
    "fuzz": [*SANITIZED, "-fno-sanitize-recover=undefined", "-fsanitize=fuzzer-no-link"],
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
        extra_link_args=["-fsanitize=address"] if BUILD == "sanitize" else [],
        define_macros=[("K8STRACE_BUILD", f'"{BUILD}"')],
    )
    result.cython_directives = DIRECTIVES
    return result


NEEDED = {
    "crypt.h": "libcrypt-dev",
    "nghttp2/nghttp2.h": "libnghttp2-dev",
    "isa-l/igzip_lib.h": "libisal-dev",
    "zstd.h": "libzstd-dev",
    "snappy-c.h": "libsnappy-dev",
    "lz4frame.h": "liblz4-dev",
}
"""Headers, and the packages that bring them, under Debian's names."""


class BuildExt(build_ext):  # type: ignore[misc]
    def build_extensions(self) -> None:
        """Compile; what is missing is named, with the command that brings it."""
        missing = [header for header in NEEDED if not self._has(header)]
        if missing:
            packages = " ".join(NEEDED[header] for header in missing)
            raise SystemExit(
                f"Headers are missing: {', '.join(missing)}. This installs them:\n"
                f"    sudo apt-get install --yes {packages}"
            )
        super().build_extensions()

    def _has(self, header: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "header.c")
            source.write_text(f"#include <stddef.h>\n#include <{header}>\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder)
            except CompileError:
                return False
        return True


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        extension("_codec", "isal", "zstd", "snappy", "lz4"),
        extension("budget"),
        extension("_counters"),
        extension("_crypt", "crypt"),
        extension("driver"),
        extension("_fastpath"),
        extension("_files"),
        extension("_complexity"),
        extension("_heap"),
        extension("_http1"),
        extension("_http2", "nghttp2"),
        extension("_http2_client", "nghttp2"),
        extension("_http2_guarded", "nghttp2"),
        extension("_http2_server", "nghttp2"),
        extension("_store", "isal"),
        extension("_threads"),
    ],
    # Times of files are compared, not options: without force a change of BUILD is lost.
    options={"build_ext": {"force": True, "cython_c_in_temp": True}},
)

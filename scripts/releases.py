"""`python -m scripts.releases`: the README's two commands on releases of Debian.

Each release gets a root directory by debootstrap that holds make, python3, the certificates
of public authorities and a copy of this checkout. There, once as root and once as a user
without rights, runs what the README says: `make run` with the demo sending to it, and
`make test`. A user without rights is first told which packages are missing; root installs
them with the command that was printed.

It needs root, debootstrap, and the network for packages. It uses the standard library only,
since it runs before anything is installed. The exit status is 0 if everything passed, 1 if
something failed, 2 where it cannot run at all, and 3 if nothing failed but a release was
not tried, because packages could not be fetched.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDER = Path("/var/tmp/k8strace-releases")
SCRIPTS = Path("/usr/share/debootstrap/scripts")
RELEASES = ("bookworm", "trixie")
USERS = ("root", "user")
INSIDE = "/home/user/k8strace"
BASE_PACKAGES = ("ca-certificates", "make")
# The machine's own ways to packages, where it has any: proxies, credentials, authorities.
WAYS = (
    "etc/apt/apt.conf.d",
    "etc/apt/auth.conf.d",
    "etc/pip.conf",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/ssl/certs/ca-certificates.crt",
)
PASSED_ON = re.compile(r"(?i)(PIP|SSL)_\w+|REQUESTS_CA_BUNDLE|(https?|no|all)_proxy")
CLOSING = re.compile(r"^=+ (.*\b(?:passed|failed|error)\b.*) in ([\d.]+)s.*=+$")
TOLD = re.compile(r"^ +sudo (apt-get update && )sudo (apt-get .*)$", re.MULTILINE)
SENT = re.compile(r"^otelcol_exporter_sent_spans\w*\{[^}]*\} (\S+)$", re.MULTILINE)
# What apt and pip print at the end where a server of packages does not answer.
UNREACHABLE = re.compile(
    r"^(E: (Failed|Unable) to fetch |WARNING: Retrying \(Retry\(total=0, )", re.MULTILINE
)
FETCH_TIMEOUT = 900.0  # seconds, for the packages of a release
STEP_TIMEOUT = 3600.0
SHORT_TIMEOUT = 1800.0  # of the fast tests
START_TIMEOUT = 900.0  # `make run` compiles, and fetches packages
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
FAILED, NOT_TRIED = 1, 3  # exit statuses
DEMO_SPANS = re.compile(r"^ *spans +(\d+)", re.MULTILINE)


class Release(NamedTuple):
    """A release, and the interpreter of it where that is not its python3."""

    suite: str
    python: str

    @property
    def name(self) -> str:
        return self.suite if self.python == "python3" else f"{self.suite}-{self.python}"


class Outcome(NamedTuple):
    """What came of a release for a user; `tests` are pytest's closing lines."""

    release: str
    user: str
    versions: str
    run: str
    tests: tuple[str, ...]
    minutes: float
    status: int


class StepError(Exception):
    """A step failed; says which one."""


class NotTriedError(StepError):
    """There is no root directory to try anything in; says why."""


class Root:
    """A release's root directory, with the checkout in it, for one user."""

    def __init__(self, folder: Path, release: Release, user: str) -> None:
        self._release = release
        self._user = user
        self._base = folder / release.name
        self._path = folder / f"{release.name}-{user}"
        self._log = folder / f"{release.name}-{user}.log"
        self._log.write_bytes(b"")

    def make(self) -> None:
        """Make it anew. The release's packages are fetched once."""
        if not (self._base / "ready").exists():
            shutil.rmtree(self._base, ignore_errors=True)
            packages = [*BASE_PACKAGES, self._release.python]
            if self._release.python != "python3":
                packages += [f"{self._release.python}-{part}" for part in ("venv", "dev")]
            try:
                self._fetch(packages)
            except StepError as error:
                raise NotTriedError(f"debootstrap {self._release.suite}: {error}") from None
            (self._base / "ready").touch()
        self.remove()
        self._do(["cp", "-a", "--reflink=auto", str(self._base), str(self._path)])
        for way in WAYS:
            self._copy_way(way)
        self._copy_checkout()

    def _fetch(self, packages: Iterable[str]) -> None:
        # In a name space of its own: what debootstrap mounts goes when it ends.
        command = [*NAMESPACES, "--mount-proc", "debootstrap", "--variant=minbase"]
        command += [f"--include={','.join(packages)}", self._release.suite, str(self._base)]
        if not (SCRIPTS / self._release.suite).exists():
            # A release newer than debootstrap, of its default mirror.
            command += ["", str(SCRIPTS / "sid")]
        self._do(command, timeout=FETCH_TIMEOUT)
        self._inside(self._base, "root", "useradd --create-home user; apt-get clean")

    def remove(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)

    def run(self, command: str, user: str = "", *, timeout: float = STEP_TIMEOUT) -> str:
        """What `command` prints in the checkout. Raises StepError if it fails."""
        return self._inside(self._path, user or self._user, command, timeout)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Begin `command` in the checkout."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command(self._path, self._user, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(self._user),
                start_new_session=True,
            )

    def tail(self, since: int = 0) -> str:
        """What was logged behind the first `since` bytes."""
        with self._log.open("rb") as log:
            log.seek(since)
            return log.read().decode("utf-8", "replace")

    @property
    def log(self) -> Path:
        return self._log

    def _inside(
        self, root: Path, user: str, command: str, timeout: float = STEP_TIMEOUT
    ) -> str:
        return self._do(self._command(root, user, command), user, timeout)

    def _command(self, root: Path, user: str, command: str) -> list[str]:
        # A name space of its own: mounts and processes go when the command does.
        mounts = (
            f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev && "
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp && "
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/dev/shm"
        )
        place = f"cd {INSIDE} 2>/dev/null || cd /"
        entered = f"exec chroot --userspec={user}:{user} {root} /bin/sh -c"
        script = f"{mounts} && {entered} {quoted(f'{place}; {command}')}"
        return [*NAMESPACES, "/bin/sh", "-c", script]

    def _do(
        self, command: list[str], user: str = "root", timeout: float = STEP_TIMEOUT
    ) -> str:
        since = self._log.stat().st_size
        with self._log.open("ab") as log:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment(user),
                    timeout=timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise StepError(f"{command[-1]}: not done after {timeout:.0f} s") from None
        if done.returncode != 0:
            raise StepError(f"{command[-1]}: exit status {done.returncode}")
        return self.tail(since)

    def _copy_way(self, way: str) -> None:
        source, target = Path("/", way), self._path / way
        if source.is_dir():
            for file in source.iterdir():
                # Others of these files are about the machine, not about its network.
                if (file.is_file() and b"Acquire" in file.read_bytes()) or "auth" in way:
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, target)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    def _copy_checkout(self) -> None:
        """What git knows, and what it would if asked to: nothing that was made."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=CHECKOUT,
            capture_output=True,
            check=True,
        ).stdout.split(b"\0")
        inside = self._path / INSIDE[1:]
        for name in filter(None, map(os.fsdecode, listed)):
            source = CHECKOUT / name
            if source.exists():
                (inside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, inside / name)
        self._inside(self._path, "root", f"chown -R {self._user}: {INSIDE}")


def environment(user: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    kept.pop("PIP_FIND_LINKS", None)  # a directory outside the root
    home = "/root" if user == "root" else f"/home/{user}"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**kept, "PATH": path, "HOME": home, "USER": user, "LANG": "C.UTF-8"}


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def free_ports(number: int) -> list[int]:
    """Ports that nobody has now: a root shares the machine's network."""
    sockets = [socket.socket() for _ in range(number)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def install(root: Root, make: str) -> None:
    """As a user without rights: be told what to install, have root do it."""
    try:
        root.run(f"{make} build")
    except StepError:
        told = TOLD.search(root.tail())
        if told is None:
            raise StepError("make build: names no command to install packages") from None
        root.run(f"{told[1]}{told[2]}", "root")


def run_and_demo(root: Root, make: str) -> str:
    """`make run`, and the demo sending to it; says how many spans came through."""
    grpc, metrics, health = free_ports(3)
    readers = "{readers: [{pull: {exporter: {prometheus: {host: localhost, port: %d}}}}]}"
    arguments = [
        f"--set receivers.otlp.protocols.grpc.endpoint=localhost:{grpc}",
        f"--set extensions.health_check.endpoint=localhost:{health}",
        f"--set 'service.telemetry.metrics={readers % metrics}'",
    ]
    since = root.log.stat().st_size
    gateway = root.start(f'exec {make} run ARGS="{" ".join(arguments)}"')
    try:
        until = time.monotonic() + START_TIMEOUT
        while " is ready" not in root.tail(since):
            if gateway.poll() is not None or time.monotonic() > until:
                raise StepError("make run: the gateway did not get ready")
            time.sleep(0.2)
        demo = root.run(f".venv/bin/python -m k8strace.demo --endpoint localhost:{grpc}")
        sent = DEMO_SPANS.search(demo)
        if sent is None:
            raise StepError("k8strace.demo: does not say how many spans it sent")
        scrape = (
            "import urllib.request as r; "
            f"print(r.urlopen('http://localhost:{metrics}/metrics').read().decode())"
        )
        until = time.monotonic() + 60
        while not (came := spans_sent(root.run(f'.venv/bin/python -c "{scrape}"'))):
            if time.monotonic() > until:
                raise StepError("make run: none of the demo's spans came through")
        if came != int(sent[1]):
            raise StepError(f"make run: of {sent[1]} spans {came} came through")
        return f"{came} spans"
    finally:
        os.killpg(gateway.pid, signal.SIGKILL)
        gateway.wait()


def spans_sent(metrics: str) -> int:
    return int(sum(map(float, SENT.findall(metrics))))


def closing_lines(output: str) -> list[str]:
    lines = (CLOSING.match(line.strip()) for line in output.splitlines())
    return [f"{found[1]} in {float(found[2]) / 60:.1f} min" for found in lines if found]


def attempt(folder: Path, release: Release, user: str, *, short: bool) -> Outcome:
    """All of it for one release and user."""
    root = Root(folder, release, user)
    begun = time.monotonic()
    versions, ran, status = "?", "not reached", 0
    make = "make" if release.python == "python3" else f"make PYTHON={release.python}"
    since = 0
    try:
        root.make()
        if user != "root":
            install(root, make)
        ran = run_and_demo(root, make)
        ask = "import sys, ssl; print(sys.version.split()[0], ssl.OPENSSL_VERSION)"
        versions = root.run(f'.venv/bin/python -c "{ask}"').strip()
        since = root.log.stat().st_size
        if short:
            tests = '.venv/bin/python -m pytest -n 2 --dist worksteal -m "not slow"'
            root.run(tests, timeout=SHORT_TIMEOUT)
        else:
            root.run(f"{make} test")
    except StepError as error:
        status = what_failed(error, root.tail(), is_built=since > 0)
        sys.stderr.write("\n".join(root.tail().splitlines()[-60:]) + "\n")
        what = "NOT TRIED" if status == NOT_TRIED else "failed"
        sys.stderr.write(f"{release.name}, {user}: {what}: {error}; see {root.log}\n")
        if ran == "not reached":
            ran = "not tried" if status == NOT_TRIED else "failed"
    if not status:
        root.remove()
    done = tuple(closing_lines(root.tail(since))) if since else ()
    minutes = (time.monotonic() - begun) / 60
    return Outcome(release.name, user, versions, ran, done, minutes, status)


def what_failed(error: StepError, output: str, *, is_built: bool) -> int:
    """FAILED, or NOT_TRIED where packages could not be fetched, a fault of others.

    Once k8strace is built and runs (`is_built`) nothing is fetched any more: whatever
    fails then is a failure.
    """
    unreachable = isinstance(error, NotTriedError) or UNREACHABLE.search(output)
    return NOT_TRIED if unreachable and not is_built else FAILED


def report(outcomes: Iterable[Outcome]) -> str:
    """A table in Markdown."""
    head = "| release | user | Python, OpenSSL | `make run` and demo | tests | minutes |"
    lines = [head, "|---|---|---|---|---|---:|"]
    for one in outcomes:
        tests = "<br>".join(one.tests) or "not reached"
        cells = (one.release, one.user, one.versions, one.run, tests, f"{one.minutes:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m scripts.releases",
        description="Try make run and make test on Debian.",
    )
    result.add_argument(
        "--releases",
        default=" ".join(RELEASES),
        metavar="NAMES",
        help="suites, each with :PYTHON for another than its python3 "
        f"(default: {' '.join(RELEASES)})",
    )
    result.add_argument("--users", default=" ".join(USERS), help="root, user, or both")
    result.add_argument("--short", action="store_true", help="the fast tests only")
    result.add_argument("--folder", type=Path, default=FOLDER, help="where roots are made")
    return result


def main() -> int:
    arguments = parser().parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.stderr.write("this needs root, and debootstrap: apt-get install debootstrap\n")
        return 2
    arguments.folder.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for name in arguments.releases.split():
        suite, _, python = name.partition(":")
        for user in arguments.users.split():
            release = Release(suite, python or "python3")
            outcomes.append(attempt(arguments.folder, release, user, short=arguments.short))
    sys.stdout.write(report(outcomes))
    statuses = {one.status for one in outcomes}
    return FAILED if FAILED in statuses else max(statuses, default=0)


if __name__ == "__main__":
    sys.exit(main())

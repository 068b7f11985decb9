"""The rules of the tree: where things stand, who may import whom, what each file holds."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import k8strace
from k8strace import metrics
from k8strace.component import Component, Config
from k8strace.components import COMPONENTS

ROOT = Path(k8strace.__file__).parent.parent
PACKAGE = ROOT / "k8strace"
KINDS = ("receivers", "processors", "exporters", "extensions")
LINES = 800

# Modules without a test file of their own name, and where they are tested.
TESTED_ELSEWHERE: dict[str, str] = {
    "k8strace.grpc.grpcio_tls": "tests/conformance/test_tls.py",
}


def modules(*suffixes: str) -> dict[str, Path]:
    """The files of k8strace by the names that they are imported with."""
    found: dict[str, Path] = {}
    for suffix in suffixes:
        for path in sorted(PACKAGE.rglob(f"*{suffix}")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules(".py", ".pyx")
SOURCES = modules(".pxd") | MODULES
# Lower comes first: a module imports from its own tier and from those above it in this
# list. A package stands for all of its modules.
TIERS = (
    {
        "k8strace",
        "k8strace.errors",
        "k8strace.headers",
        "k8strace.units",
        "k8strace.secret",
        "k8strace.background",
        "k8strace.lines",
        "k8strace.log_queue",
        "k8strace.losses",
        "k8strace.addresses",
        "k8strace.folders",
        "k8strace.arguments",
        "k8strace.signals",
    },
    {"k8strace._wire", "k8strace._threads"},
    set(SOURCES) - set(MODULES) - {"k8strace._wire"},  # C that is shared by cimport
    {
        "k8strace._crypt",
        "k8strace._fastpath",
        "k8strace._files",
        "k8strace._http1",
        "k8strace._http2",
        "k8strace._codec",
        "k8strace._complexity",
        "k8strace._heap",
        "k8strace._store",
        "k8strace.threads",
    },
    {"k8strace._http2_server", "k8strace._http2_client"},
    {"k8strace._http2_guarded"},
    {
        "k8strace.budget",
        "k8strace._counters",
        "k8strace.metrics",
        "k8strace.driver",
        "k8strace.files",
        "k8strace.memory",
    },
    {"k8strace.payload", "k8strace.segments", "k8strace.drops", "k8strace.loop_lag"},
    {"k8strace.passes"},
    {"k8strace.pieces"},
    {"k8strace.store"},
    {
        "k8strace.component",
        "k8strace.auth",
        "k8strace.edges",
        "k8strace.fair_line",
        "k8strace.grpc",
        "k8strace.net",
        "k8strace.memory_guard",
        "k8strace.middleware",
        "k8strace.tls",
    },
    {f"k8strace.{kind}" for kind in KINDS},
    {"k8strace.components"},
    {name for name in MODULES if name.startswith("k8strace.config_")},
    {"k8strace.config"},
    {"k8strace.graph", "k8strace.telemetry", "k8strace.listeners"},
    {"k8strace.service"},
    {"k8strace.worker", "k8strace.worker_process", "k8strace.supervisor"},
    {"k8strace.gateway", "k8strace.replay", "k8strace.demo", "k8strace._kube_spans"},
    {"k8strace.kube"},
    {"k8strace.gen"},
)

COMPONENT_MODULES = {
    name: path
    for name, path in MODULES.items()
    if name.count(".") == 2
    and name.split(".")[1] in KINDS
    and not path.name.startswith("_")
}


def imports(path: Path) -> set[str]:
    """The modules of k8strace that a file imports, anywhere in it."""
    source = path.read_text()
    if path.suffix != ".py":
        return set(re.findall(r"^(?:from|c?import) (k8strace[\w.]*)", source, re.MULTILINE))
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            assert node.module is not None
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {one for one in below if one in MODULES} or {node.module}
    return {name for name in names if name.split(".")[0] == "k8strace"}


def tier(name: str) -> int:
    """The place of a module in TIERS, by its own name or its package's."""
    wanted = {name} if name.count(".") == 0 else {".".join(name.split(".")[:2])}
    for number, names in enumerate(TIERS):
        if wanted & names:
            return number
    raise AssertionError(f"{name} stands in no tier: say in TIERS where it belongs")


def all_configs(config_type: type[Config] = Config) -> Iterator[type[Config]]:
    for one in config_type.__subclasses__():
        if one.__module__.startswith("k8strace."):
            yield one
        yield from all_configs(one)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_test_file(name: str) -> None:
    path = MODULES[name]
    if path.name == "__init__.py" or name in TESTED_ELSEWHERE:
        return
    folder = ROOT / "tests" / path.parent.relative_to(PACKAGE)
    stem = path.stem.removeprefix("_")
    expected = folder / f"test_{stem}.py"
    found = expected.exists() or any(folder.glob(f"test_{stem}_*.py"))
    assert found, f"{path.relative_to(ROOT)} has no {expected.relative_to(ROOT)}"


def test_exceptions_from_the_mirror_are_needed() -> None:
    for name, where in TESTED_ELSEWHERE.items():
        assert name in MODULES, f"{name} is no module any more"
        assert (ROOT / where).exists(), f"{name} is tested in {where}, which is not there"
        path = MODULES[name]
        test = f"test_{path.stem.removeprefix('_')}.py"
        folder = ROOT / "tests" / path.parent.relative_to(PACKAGE)
        assert not (folder / test).exists(), f"{name} has a test file: drop the exception"


@pytest.mark.parametrize("name", COMPONENT_MODULES)
def test_a_component_file_is_one_listed_component(name: str) -> None:
    module = importlib.import_module(name)
    components = [
        one
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, Component)
        and one.__module__ == name
        and "type_name" in vars(one)
    ]
    assert len(components) == 1, f"{name} has {len(components)} components, not one"
    component = components[0]
    kind = name.split(".")[1]
    assert component.kind == kind
    assert component is COMPONENTS[kind].get(component.type_name), (
        f"{name} is not listed in components.py"
    )
    assert "config_type" in vars(component), f"{component} has no config_type"
    assert issubclass(component.config_type, Config)
    first = inspect.getdoc(module) or ""
    assert first.startswith(f"{component.type_name}: "), (
        f"{name}: its docstring begins with its id, {component.type_name!r}"
    )


def test_every_listed_component_has_its_file() -> None:
    for kind, types in COMPONENTS.items():
        for name, component in types.items():
            assert component.__module__ in COMPONENT_MODULES, f"{kind}: {name}"
            assert component.__module__.startswith(f"k8strace.{kind}.")
            assert component.type_name in types


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_one_way(name: str) -> None:
    later = {one for one in imports(SOURCES[name]) if tier(one) > tier(name)}
    assert not later, f"{name} imports what stands behind it: {sorted(later)}"


def test_imports_have_no_cycle() -> None:
    graph = {name: imports(path) - {name} for name, path in SOURCES.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", COMPONENT_MODULES)
def test_components_never_import_each_other(name: str) -> None:
    others = imports(MODULES[name]) & (set(COMPONENT_MODULES) - {name})
    assert not others, f"{name} imports {sorted(others)}"


def test_shared_parts_import_no_component() -> None:
    for name, path in MODULES.items():
        if name.split(".")[-1].startswith("_"):
            assert not imports(path) & set(COMPONENT_MODULES), name


def test_no_file_is_too_long() -> None:
    too_long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("k8strace", "scripts", "tests", "benchmarks")
        for suffix in ("*.py", "*.pyx", "*.pxd", "*.pyi")
        for path in (ROOT / folder).rglob(suffix)
        if (lines := len(path.read_text().splitlines())) > LINES
    }
    assert not too_long, f"over {LINES} lines a file is two things"


def dropped_tasks(source: str) -> list[int]:
    """Lines that start a task and keep no reference to it; a TaskGroup keeps its own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            continue
        called = ast.unparse(node.value.func)
        owner, _, function = called.rpartition(".")
        of_a_loop = owner in ("", "asyncio") or "loop" in owner.lower()
        if function in ("create_task", "ensure_future") and of_a_loop:
            found.append(node.lineno)
    return found


def test_the_search_for_dropped_tasks_finds_them() -> None:
    source = (
        "asyncio.create_task(f())\n"
        "loop.create_task(f())\n"
        "asyncio.get_running_loop().create_task(f())\n"
        "asyncio.ensure_future(f())\n"
        "group.create_task(f())\n"
        "task = asyncio.create_task(f())\n"
    )
    assert dropped_tasks(source) == [1, 2, 3, 4]


def test_no_task_is_dropped() -> None:
    for folder in ("k8strace", "scripts", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = dropped_tasks(path.read_text())
            assert not lines, f"{path}: a task that nobody holds in lines {lines}"


def waits_for_one(source: str) -> list[int]:
    """Lines that wait for a single task by `asyncio.wait`."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "asyncio.wait"
        and isinstance(node.args[0], (ast.Tuple, ast.List, ast.Set))
        and len(node.args[0].elts) == 1
    ]


def test_the_search_for_waits_for_one_task_finds_them() -> None:
    source = (
        "asyncio.wait((one,))\nasyncio.wait([one], timeout=1)\nasyncio.wait({one})\n"
        "asyncio.wait((one, other))\nasyncio.wait(all)\nended(one)\n"
    )
    assert waits_for_one(source) == [1, 2, 3]


def test_one_task_is_waited_for_without_a_cycle() -> None:
    for path in PACKAGE.rglob("*.py"):
        lines = waits_for_one(path.read_text())
        assert not lines, f"{path}: take `ended` of background.py in lines {lines}"


# Where tasks are started that `k8strace/background.py` doesn't watch, and who looks at how
# they end.
LOOKED_AT = {
    "edges.py: __call__": "awaits them",
    "exporters/_delivery.py: _timed": "awaits it",
    "exporters/_workers.py: pump": "_on_end",
    "extensions/_verdicts.py: _begin": "_ended",
    "extensions/basicauth.py: _to_its_end": "awaits it",
    "extensions/oauth2client.py: _renewed": "awaits it, and _ended",
    "grpc/native_connection.py: _start": "_finish and _waited",
    "net/http1.py: _suspend": "_finished",
    "service.py: _drain": "awaits it",
    "signals.py: ends_before": "cancels it",
    "signals.py: unless_stopped": "awaits it",
    "supervisor.py: _drain": "awaits it",
    "supervisor.py: _launch_all": "awaits it",
    "supervisor.py: _serve": "awaits it",
}


def started_tasks(tree: ast.AST) -> set[str]:
    """The functions that start a task by themselves; a TaskGroup looks after its own."""
    found = set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for function in ast.walk(tree):
        if not isinstance(function, functions):
            continue
        for node in ast.walk(function):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner, name = ast.unparse(node.func.value), node.func.attr
            if name == "ensure_future" or (name == "create_task" and owner != "group"):
                found.add(function.name)
    return found


def test_tasks_are_started_where_somebody_looks_at_how_they_end() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {function}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "background.py"
        for function in started_tasks(ast.parse(path.read_text()))
    }
    assert found <= set(LOOKED_AT), "take keep_running or spawn of k8strace/background.py"
    assert found == set(LOOKED_AT), "what is not there any more needs no exception"


def test_the_search_for_started_tasks_finds_them() -> None:
    source = (
        "def one():\n    return loop.create_task(f())\n"
        "async def two():\n    asyncio.ensure_future(f())\n"
        "async def none():\n    group.create_task(f())\n"
    )
    assert started_tasks(ast.parse(source)) == {"one", "two"}


ALONE = """
import importlib, os, sys
for name in {outside!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # a module that only some Pythons have; who needs it says so below
for name in {modules!r}:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_module_imports_alone() -> None:
    """Each in a fork that has seen nothing of k8strace; what is not ours is shared."""
    outside = {
        name
        for path in MODULES.values()
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
        if name.split(".")[0] != "k8strace"
    }
    script = ALONE.format(outside=sorted(outside), modules=sorted(MODULES))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module]
    return []


def test_importing_a_module_lists_nothing() -> None:
    """Registration is the table alone: it is written out, class by class."""
    source = ast.parse((PACKAGE / "components.py").read_text())
    names = {
        node.id
        for node in ast.walk(source)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    listed = {one.__name__ for types in COMPONENTS.values() for one in types.values()}
    assert listed <= names


def test_series_are_declared_once() -> None:
    series = [one for one in vars(metrics).values() if isinstance(one, metrics.Series)]
    names = Counter(one.name for one in series)
    assert series
    assert not [name for name, count in names.items() if count > 1]
    for one in series:
        assert one.help.endswith("."), one.name
        assert not one.name.endswith("_total"), f"{one.name}: the suffix is Prometheus'"
        assert one.name.startswith(("otelcol_", "k8strace_")), one.name


def test_configs_are_frozen_by_keyword_and_complete() -> None:
    for name in COMPONENT_MODULES:
        importlib.import_module(name)
    importlib.import_module("k8strace.config")
    found = set(all_configs())
    assert {c.config_type for types in COMPONENTS.values() for c in types.values()} <= {
        Config,
        *found,
    }
    for config_type in found:
        settings: Any = config_type.__struct_config__
        assert settings.frozen, config_type
        assert settings.forbid_unknown_fields, config_type
        for parameter in inspect.signature(config_type).parameters.values():
            assert parameter.kind is parameter.KEYWORD_ONLY, (config_type, parameter)

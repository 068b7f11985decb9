"""The documentation says what the code does: option tables, examples, commands, links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from k8strace.components import COMPONENTS
from k8strace.config import load
from scripts import option_tables

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMPONENT_TYPES = sorted(
    {c for types in COMPONENTS.values() for c in types.values()}, key=str
)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path, *languages: str) -> list[str]:
    return [
        text for language, text in FENCE.findall(page.read_text()) if language in languages
    ]


CONFIGURATIONS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "yaml", "yml"))
    if re.search(r"^service:", text, re.MULTILINE)
]


@pytest.mark.parametrize("component", COMPONENT_TYPES, ids=lambda one: one.type_name)
def test_component_has_a_page_with_its_options(
    component: option_tables.ComponentType,
) -> None:
    page = option_tables.page_of(component)
    assert page.exists(), f"{component.type_name} has no page: run make docs, add the prose"
    text = page.read_text()
    assert text.startswith(f"# {component.type_name}\n")
    assert option_tables.with_options(text, component) == text, "run make docs"


def test_every_page_is_of_a_component() -> None:
    types = {one.type_name for one in COMPONENT_TYPES}
    assert {page.stem for page in option_tables.PAGES.glob("*.md")} == types


def test_every_component_is_in_the_overview() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for one in COMPONENT_TYPES:
        assert f"](components/{one.type_name}.md)" in text, one.type_name


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_configuration_loads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    load([str(path)], [])


def test_there_are_examples() -> None:
    assert len(CONFIGURATIONS) >= 3


def targets() -> set[str]:
    listing = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.split()[0] for line in listing.stdout.splitlines()}


def test_make_lists_every_target_with_a_line() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == targets()
    bare = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in bare.stdout.splitlines()} >= targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_there(page: Path) -> None:
    known = targets()
    for block in blocks(page, "sh", "console"):
        for line in block.splitlines():
            words = line.removeprefix("$ ").split("#")[0].split()
            if words[:1] == ["make"]:
                named = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)]
                assert set(named) <= known, line
            if "-m" in words:
                module = words[words.index("-m") + 1]
                source = ROOT / f"{module.replace('.', '/')}.py"
                assert not module.startswith("k8strace") or source.exists(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.split("#")[0]).exists(), target

"""Where the control plane's binaries are kept, and when they are built anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.kube import binaries


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_they_are_kept_by_version_outside_the_repository(cache: Path) -> None:
    found = binaries.folder()
    assert found.parent == cache / "k8strace" / "kube"
    assert f"{binaries.kubernetes_version()}-etcd-{binaries.etcd_version()}" in found.name


def test_what_is_built_is_found_when_both_are_there(cache: Path) -> None:
    assert binaries.built() is None
    folder = binaries.folder()
    folder.mkdir(parents=True)
    (folder / "etcd").touch()
    assert binaries.built() is None
    (folder / "kube-apiserver").touch()
    assert binaries.built() == (folder / "etcd", folder / "kube-apiserver")
    assert binaries.build() == folder


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go"])
def test_what_goes_into_them_decides(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = binaries.folder()
    copy = cache / "etcd"
    copy.mkdir()
    for file in ("go.mod", "go.sum", "main.go"):
        copy.joinpath(file).write_bytes((binaries.PROGRAMS["etcd"] / file).read_bytes())
    monkeypatch.setitem(binaries.PROGRAMS, "etcd", copy)
    assert binaries.folder() == before
    with (copy / name).open("a") as file_:
        file_.write("// changed\n")
    assert binaries.folder() != before


def test_without_go_it_is_said_what_is_missing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO", "")
    with pytest.raises(FileNotFoundError, match="Install Go to build Kubernetes"):
        binaries.build()

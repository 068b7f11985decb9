"""What tests of TLS share."""

from __future__ import annotations

import pytest

from k8strace import files


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for files for as long as a busy machine takes: a change is seen at once."""
    monkeypatch.setattr(files, "PATIENCE", 30.0)

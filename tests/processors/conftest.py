"""What all tests of processors have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k8strace import background


@pytest.fixture(autouse=True, scope="module")
def long_turns() -> Iterator[None]:
    """Turns of the event loop that don't end because the machine is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "TURN", 3600.0)
        yield

"""What the sanitizers of `make sanitize` change: memory, of which they take more."""

from __future__ import annotations

import pytest

from k8strace import _fastpath

SANITIZED = _fastpath.BUILD == "sanitize"


def unsanitized(why: str) -> pytest.MarkDecorator:
    """Marks a test that means nothing under them, and says so when it is skipped."""
    return pytest.mark.skipif(SANITIZED, reason=f"not under the sanitizers: {why}")

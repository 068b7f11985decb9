"""What pages of our own lack of the collector's HTTP servers."""

from __future__ import annotations

import pytest

from k8strace.config import load
from k8strace.errors import ConfigError
from k8strace.extensions._page_options import NOT_AVAILABLE


@pytest.mark.parametrize("extension", ["health_check", "zpages"])
@pytest.mark.parametrize("option", NOT_AVAILABLE)
def test_each_is_refused_as_not_available(extension: str, option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([], [f"extensions.{extension}.{option}={{}}"])
    (problem,) = caught.value.problems
    assert problem.endswith(
        f": extensions::{extension}::{option}: "
        f"not available in k8strace; {NOT_AVAILABLE[option]}"
    )

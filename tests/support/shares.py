"""What share of a sweep runs each time; ``make test-all`` runs all of it."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

__all__ = ["rest_slow"]


def rest_slow(values: Iterable[Any] | Mapping[str, Any], quick: int = 1) -> list[Any]:
    """Values of parameters, by test id if a mapping, all but the first ``quick`` of them among
    the slow tests.
    """
    items = values.items() if isinstance(values, Mapping) else [(None, v) for v in values]
    return [pytest.param(*(value if isinstance(value, tuple) else (value,)), id=name,
                         marks=[pytest.mark.slow] if number >= quick else [])
            for number, (name, value) in enumerate(items)]

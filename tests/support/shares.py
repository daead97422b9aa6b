"""What share of a sweep runs each time; ``make test-all`` runs all of it."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

__all__ = ["repeats", "rest_slow"]


def rest_slow(values: Iterable[Any] | Mapping[str, Any], quick: int = 1) -> list[Any]:
    """Values of parameters, by test id if a mapping, all but the first ``quick`` of them among
    the slow tests.
    """
    items = values.items() if isinstance(values, Mapping) else [(None, v) for v in values]
    return [pytest.param(*(value if isinstance(value, tuple) else (value,)), id=name,
                         marks=[pytest.mark.slow] if number >= quick else [])
            for number, (name, value) in enumerate(items)]


def repeats(most: int) -> int:
    """How often a random case inside of a test is drawn: a third of ``most`` times, or all of them
    where ``HWGATE_ALL`` is set, as ``make test-all`` does.
    """
    return most if os.environ.get("HWGATE_ALL") else max(2, most // 3)

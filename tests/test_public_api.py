"""The names that users import."""

from importlib import import_module
from importlib.util import find_spec

import pytest

import hwgate


@pytest.mark.parametrize("name", hwgate.__all__)
def test_no_public_name_is_a_module(name):
    # Importing a submodule sets it as attribute of the package, and would replace the function.
    assert find_spec(f"hwgate.{name}") is None


@pytest.mark.parametrize("name", hwgate.__all__)
def test_public_names_lead_to_their_modules(name):
    value = getattr(hwgate, name)
    assert value is getattr(import_module(hwgate._EXPORTS[name]), name)
    assert getattr(hwgate, name) is value


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="^module 'hwgate' has no attribute 'simulator'$"):
        hwgate.simulator  # noqa: B018

"""Errors that users cause and can mend. The CLI prints their sentence and exits 2."""

import reprlib
from numbers import Real

__all__ = ["CompileError", "FidelityWarning", "ToolError", "UncheckedWarning", "UserError",
           "expect", "reason", "shown"]


class UserError(ValueError):
    """Bad input; the message is one sentence that names the thing, the rule and the value."""


class CompileError(UserError):
    """A layer that the accelerator cannot run; named by its module path, with a hint."""


class FidelityWarning(UserWarning):
    """Integers that follow their float model less closely than they should."""


class UncheckedWarning(UserWarning):
    """A file that does not tell whether its content is what was written."""


class ToolError(UserError):
    """A tool that is missing or does not work, and what to install."""


#: How a sentence names a class, where the class's own name says less.
_WORDS = {"Integral": "an integer", "Mapping": "a mapping", "Module": "a torch module",
          "NoneType": "None", "PathLike": "a path", "Real": "a number", "Tensor": "a tensor",
          "bool": "true or false", "int": "an integer", "ndarray": "a NumPy array",
          "str": "a text"}

#: Texts and numbers are cut in the middle where they would fill a sentence by themselves.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def expect(what: str, value: object, *kinds: type, hint: str = "") -> None:
    """Raise unless a value is of one of these kinds. True and false are no numbers.

    Parameters
    ----------
    what : str
        How the user knows the value, such as ``Image count``.
    value : object
    kinds : type
        Classes, those of :mod:`numbers` among them; ``type(None)`` for what may be left out.
    hint : str
        Where to get such a value, said after a semicolon.

    Raises
    ------
    UserError
        Names the value and what it must be.
    """
    numeric = isinstance(value, bool) and bool not in kinds
    if isinstance(value, kinds) and not numeric:
        return
    names = [_named(kind) for kind in kinds if kind is not type(None)]
    raise UserError(f"{what} must be {' or '.join(names)}, not {shown(value)}"
                    + (f"; {hint}" if hint else ""))


def shown(value: object) -> str:
    """A value as a sentence names it: short ones as they are, others by their class."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, bytes, Real)):
        return _SHORT.repr(value)
    return _named(type(value))


def reason(error: Exception) -> str:
    """What an error of the user's own code says, as part of a sentence: its first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _named(kind: type) -> str:
    name = kind.__name__
    return _WORDS.get(name) or f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"

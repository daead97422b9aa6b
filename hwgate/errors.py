"""Errors that users cause and can mend. The CLI prints their sentence and exits 2."""

__all__ = ["CompileError", "FidelityWarning", "ToolError", "UserError"]


class UserError(ValueError):
    """Bad input; the message is one sentence that names the thing, the rule and the value."""


class CompileError(UserError):
    """A layer that the accelerator cannot run; named by its module path, with a hint."""


class FidelityWarning(UserWarning):
    """Integers that follow their float model less closely than they should."""


class ToolError(UserError):
    """A tool that is missing or does not work, and what to install."""

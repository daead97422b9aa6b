"""hwgate: from a channel-gated PyTorch network to a verified accelerator."""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

# The public names are those of the stub beside this file. They are loaded on first use, so that
# `import hwgate` stays quick.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("hwgate")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"

"""``python -m hwgate.zoo``."""

import sys

from hwgate.zoo.command import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())

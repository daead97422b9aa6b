"""``python -m hwgate.bench``."""

import sys

from hwgate.bench.command import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())

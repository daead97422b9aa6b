"""All tests, workers and runs share compiled simulators, below ``build/``."""

import os
from pathlib import Path

os.environ.setdefault("HWGATE_CACHE", str(Path(__file__).parents[1] / "build" / "cache"))

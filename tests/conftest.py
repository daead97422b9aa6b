"""All tests, workers and runs share compiled simulators, below ``build/``; no test is timed."""

import os
from pathlib import Path

from hypothesis import settings

os.environ.setdefault("HWGATE_CACHE", str(Path(__file__).parents[1] / "build" / "cache"))
os.environ.setdefault("HWGATE_QUICK", "-Og")

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

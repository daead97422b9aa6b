"""The integer network as data, running it, and a golden function for each hardware block."""

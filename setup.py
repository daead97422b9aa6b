"""Maps the top-level folders rtl, quant and sim below the package hwgate."""

from setuptools import find_packages, setup

PARTS = ("rtl", "quant", "sim")

setup(
    packages=["hwgate", *find_packages(include=["hwgate.*"])]
    + [f"hwgate.{part}" for part in PARTS]
    + [f"hwgate.{part}.{sub}" for part in PARTS for sub in find_packages(part)],
    package_dir={"hwgate": "hwgate", **{f"hwgate.{part}": part for part in PARTS}},
)

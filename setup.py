"""The packages of the wheel: `mammopipe` and, below it, what lies in the four folders beside this file.

`tool.setuptools.package-dir` in pyproject.toml says which folder is which package; this lists them, so that a new
folder needs no line anywhere.
"""

from setuptools import find_packages, setup

FOLDERS = ("processing", "training", "inference", "pipelines")

setup(
    packages=[
        "mammopipe",
        *(f"mammopipe.{name}" for name in find_packages(include=[f"{folder}*" for folder in FOLDERS])),
    ]
)

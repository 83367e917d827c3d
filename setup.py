"""Distribution `gosgd`: flat packages (import name = folder name); metadata and tool settings are in pyproject.toml."""

from setuptools import find_packages, setup

PACKAGES = ["configs", "gossip", "regularizers", "trainers", "launch"]

setup(
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
    package_data={name: ["py.typed"] for name in PACKAGES} | {"configs": ["py.typed", "*.yaml"]},
    zip_safe=False,
)

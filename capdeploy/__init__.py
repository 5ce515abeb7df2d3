"""capdeploy: class-aware pruning to a verified, measured, edge-ready bundle."""

from importlib.metadata import version as _version

__version__ = _version("capdeploy")

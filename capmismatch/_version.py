"""The version, apart from the package so that its rooms can know it."""

__version__ = "0.1.0"

"""A Pareto optimiser that learns from checkpoints, not only from scores.

Its parts are imported as ``epsopt.zoo``, ``epsopt.surrogate``, ``epsopt.optimize``, ``epsopt.figures`` and
``epsopt.studies``; importing
the package itself loads none of them.
"""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """Return ``__version__``, that of the installed distribution, looked up when somebody asks for it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("epsopt")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Lasso regression over two tables that never meet.

Two data controllers and an independent third party join their tables under
encryption and fit a lasso on secret shares of the joined table. Nobody sees
another's data; `docs/leakage.md` lists what each party learns instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.fitted_model import load_model

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """`load_model` when it is asked for: the commands need not wait for its imports."""
    if name == "load_model":
        from pipeline.fitted_model import load_model

        return load_model
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")

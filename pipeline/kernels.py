"""The compiled functions of step 8, where they are there.

`_kernels.c` does what `residues.py` and `masks.py` do with NumPy, several times
as fast, and with the same results bit by bit: parties with and without it work
together. An installation without a C compiler lacks it. SECURE_LASSO_KERNELS=numpy
in the environment switches it off.
"""

from __future__ import annotations

import os
from types import ModuleType

from pipeline.field import FIELD_127, FIELD_191, FIELD_254, PrimeField

VERSION = 1  # of the functions and their arguments
SWITCH = "SECURE_LASSO_KERNELS"
FIELDS = frozenset((field.bits, field.c) for field in (FIELD_127, FIELD_191, FIELD_254))

_kernels: ModuleType | None
try:
    from pipeline import _kernels
except ImportError:
    _kernels = None

if _kernels is not None and _kernels.VERSION != VERSION:  # compiled from an earlier version of the file
    _kernels = None

compiled = None if os.environ.get(SWITCH) == "numpy" else _kernels


def of(field: PrimeField) -> ModuleType | None:
    """The compiled functions, if there are any for this field."""
    return compiled if (field.bits, field.c) in FIELDS else None

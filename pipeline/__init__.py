"""Lasso regression over two tables that never meet.

Two data controllers and an independent third party join their tables under
encryption and fit a lasso on secret shares of the joined table. Nobody sees
another's data; `docs/leakage.md` lists what each party learns instead.
"""

__version__ = "0.1.0"

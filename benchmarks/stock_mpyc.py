"""The solver's iteration as MPyC alone would do it, run by MPyC itself: `stock_mpyc.py WAY RECORDS FEATURES -M3`.

Party 0 prints seconds an iteration. `arrays`: the iteration of our solver, given
its matrices, on MPyC's fixed-point arrays with MPyC's truncation and comparison.
`lists`: proximal gradient descent on lists of secure numbers, over all records
in each iteration. Numbers have 24 fractional bits, ours 64.
"""

import sys
import time

import numpy as np
from mpyc.runtime import mpc

ITERATIONS = 5
secure = mpc.SecFxp(48, 24)


async def arrays(_records: int, d: int) -> float:
    rng = np.random.default_rng(0)
    rho, penalty = 0.25, 0.1
    correlation = np.corrcoef(rng.standard_normal((500, d)).T)
    inverse = np.linalg.inv(correlation + rho * np.eye(d))
    linear = mpc.input(secure.array(inverse * rho), senders=0)
    at_zero = mpc.input(secure.array(inverse @ rng.uniform(-1, 1, d)), senders=0)
    z = u = mpc.input(secure.array(np.full(d, 1e-3)), senders=0)
    await mpc.gather(linear, at_zero, z)
    start = time.perf_counter()
    for _ in range(ITERATIONS):
        v = at_zero + linear @ (z - u) + u
        sides = mpc.np_concatenate((v - penalty / rho, -v - penalty / rho))
        beyond = (1 - mpc.np_sgn(sides, LT=True)) * sides
        z = beyond[:d] - beyond[d:]
        u = v - z
        await mpc.gather(z)
    return (time.perf_counter() - start) / ITERATIONS


async def lists(records: int, d: int) -> float:
    rng = np.random.default_rng(0)
    rows = [mpc.input([secure(x) for x in row], senders=0) for row in rng.standard_normal((records, d)).tolist()]
    outcome = mpc.input([secure(y) for y in rng.standard_normal(records).tolist()], senders=0)
    columns = [list(column) for column in zip(*rows, strict=True)]
    step, penalty = 0.1, 0.01
    b = [secure(0.001)] * d
    await mpc.gather(rows, outcome)
    start = time.perf_counter()
    for _ in range(ITERATIONS):
        residuals = mpc.vector_sub(outcome, [mpc.in_prod(row, b) for row in rows])
        v = [x + mpc.in_prod(column, residuals) * (step / records) for x, column in zip(b, columns, strict=True)]
        above, below = ([s * x - penalty for x in v] for s in (1, -1))
        b = [(x > 0) * x - (y > 0) * y for x, y in zip(above, below, strict=True)]
        await mpc.gather(b)
    return (time.perf_counter() - start) / ITERATIONS


async def main() -> None:
    way, records, d = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    async with mpc:
        seconds = await {"arrays": arrays, "lists": lists}[way](records, d)
    if mpc.pid == 0:
        print(seconds)


if __name__ == "__main__":
    mpc.run(main())

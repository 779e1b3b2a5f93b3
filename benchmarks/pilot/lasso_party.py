"""The pilot's secure lasso, as in the examples of its package: `lasso_party.py TABLE ITERATIONS -M3`.

Runs in an environment of its own. TABLE is a JSON file with x, y (standardised
and centred in the clear) and alpha. Party 0 prints a JSON object with the
seconds of the fit, its iterations and the coefficients, the intercept first.
"""

import json
import sys
import time
from pathlib import Path

from mpyc.runtime import mpc
from tno.mpc.mpyc.secure_learning import Lasso, SolverTypes

TOLERANCE = 1e-4  # as in the examples
secure = mpc.SecFxp(l=64, f=32)  # as in the examples


async def main() -> None:
    table = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = Lasso(solver_type=SolverTypes.GD, alpha=table["alpha"])
    async with mpc:
        x = [mpc.input([secure(v, integral=False) for v in row], senders=0) for row in table["x"]]
        y = mpc.input([secure(v, integral=False) for v in table["y"]], senders=0)
        await mpc.barrier()
        start = time.perf_counter()
        coefficients = await model.compute_coef_mpc(x, y, tolerance=TOLERANCE, nr_maxiters=int(sys.argv[2]))
        seconds = time.perf_counter() - start
    if mpc.pid == 0:
        print(json.dumps({"seconds": seconds, "iterations": model.solver.nr_epochs, "coefficients": coefficients}))


if __name__ == "__main__":
    mpc.run(main())

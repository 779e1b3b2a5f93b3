"""FISTA by SPU's ABY3, three processes over localhost: `fit.py TABLE ITERATIONS PORT PORT PORT`.

Runs in an environment of its own. TABLE is an npz file with x (standardised,
divided by the root of the number of records), y (centred, likewise) and alpha.
Prints a JSON object with the seconds of the slowest party, from shares to
shares, and the coefficients. The step size is worked out in the clear, the
number of iterations is fixed, nothing is tested for convergence.
"""

import json
import multiprocessing
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import spu
import spu.utils.frontend as frontend

jax.config.update("jax_enable_x64", True)
PARTIES = 3


def solver(alpha: float, step: float, iterations: int):
    def fit(x, y):
        gram = jnp.stack([x.T @ x[:, j] for j in range(x.shape[1])])
        q = x.T @ y
        z = b = jnp.zeros_like(q)
        t = 1.0
        for _ in range(iterations):
            v = z - step * (gram @ z - q)
            new = jnp.where(v > step * alpha, v - step * alpha, 0.0) + jnp.where(
                v < -step * alpha, v + step * alpha, 0.0
            )
            following = (1 + (1 + 4 * t * t) ** 0.5) / 2
            z = new + (t - 1) / following * (new - b)
            b, t = new, following
        return b

    return fit


def party(rank, ports, executable, shares, barrier, results) -> None:
    description = spu.libspu.link.Desc()
    for number, port in enumerate(ports):
        description.add_party(f"party{number}", f"127.0.0.1:{port}")
    link = spu.libspu.link.create_brpc(description, rank)
    runtime = spu.Runtime(link, configuration())
    for name, share in zip(executable.input_names, shares, strict=True):
        runtime.set_var(name, share)
    barrier.wait()
    start = time.perf_counter()
    runtime.run(executable)
    seconds = time.perf_counter() - start
    results.put((rank, seconds, [runtime.get_var(name) for name in executable.output_names]))
    barrier.wait()  # no party closes its links before all are done


def configuration():
    config = spu.RuntimeConfig(protocol=spu.ProtocolKind.ABY3, field=spu.FieldType.FM128)
    config.fxp_fraction_bits = 40
    return config


def main() -> None:
    table = np.load(sys.argv[1])
    x, y, alpha, iterations = table["x"], table["y"], float(table["alpha"]), int(sys.argv[2])
    step = 1 / float(np.linalg.eigvalsh(x.T @ x)[-1])
    secret = spu.Visibility.VIS_SECRET
    executable, _ = frontend.compile(
        frontend.Kind.JAX,
        solver(alpha, step, iterations),
        (x, y),
        {},
        ["x", "y"],
        [secret, secret],
        lambda outputs: [f"b{place}" for place in range(len(outputs))],
        static_argnums=(),
    )
    io = spu.Io(PARTIES, configuration())
    dealt = [io.make_shares(values, secret) for values in (x, y)]
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(PARTIES), context.Queue()
    processes = [
        context.Process(
            target=party, args=(rank, sys.argv[3:], executable, [share[rank] for share in dealt], barrier, results)
        )
        for rank in range(PARTIES)
    ]
    for process in processes:
        process.start()
    ended = sorted(results.get() for _ in processes)
    for process in processes:
        process.join()
    (coefficients,) = [
        io.reconstruct(list(shares)) for shares in zip(*(outputs for _, _, outputs in ended), strict=True)
    ]
    print(json.dumps({"seconds": max(seconds for _, seconds, _ in ended), "coefficients": coefficients.tolist()}))


if __name__ == "__main__":
    main()

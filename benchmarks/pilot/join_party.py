"""One player of the pilot's secure inner join, as in the examples of its package.

    join_party.py PLAYER TABLES RESULT BITS PORT PORT PORT

Runs in an environment of its own. TABLES is a JSON file with the rows of each
player, identifier first; RESULT gets the seconds from the making of the player,
which begins to draw randomness, to the end of the protocol (keys are made
before), and the player's shares as text.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import numpy as np
from tno.mpc.communication import Pool
from tno.mpc.encryption_schemes.paillier import Paillier
from tno.mpc.protocols.secure_inner_join import DatabaseOwner, Helper

PLAYERS = ("alice", "bob", "henri")
PRECISION = 8  # decimals, as in the examples


async def main() -> None:
    player, tables, result, bits, *ports = sys.argv[1:]
    pool = Pool()
    pool.add_http_server(port=int(ports[PLAYERS.index(player)]))
    for name, port in zip(PLAYERS, ports, strict=True):
        if name != player:
            pool.add_http_client(name, "127.0.0.1", port=int(port))
    common = {"data_parties": PLAYERS[:2], "identifier": player, "pool": pool}
    if player == "henri":
        start = time.perf_counter()
        helper = Helper(**common)
        await helper.run_protocol()
        seconds = time.perf_counter() - start
        shares = []
    else:
        rows = json.loads(Path(tables).read_text(encoding="utf-8"))[player]
        scheme = Paillier.from_security_parameter(key_length=int(bits), precision=PRECISION)
        start = time.perf_counter()
        owner = DatabaseOwner(
            paillier_scheme=scheme,
            identifiers=np.array([[row[0]] for row in rows]),
            data=np.array([row[1:] for row in rows], dtype=object),
            **common,
        )
        await owner.run_protocol()
        seconds = time.perf_counter() - start
        shares = [[str(value) for value in row] for row in owner.shares]
        owner.shutdown_received_schemes()
        scheme.shut_down()
    Path(result).write_text(json.dumps({"seconds": seconds, "shares": shares}), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())

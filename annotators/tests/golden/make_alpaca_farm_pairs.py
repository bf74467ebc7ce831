"""Prints orders in which none is in its own place, as AlpacaFarm draws them: Random(seed) shuffles the numbers until it is so.

The figures stand in the tests of src/alpaca_farm_pairs.rs.
"""

import random

for n, seed in ((4, 0), (3, 0), (8, 1), (8, 42)):
    rng, order = random.Random(seed), list(range(n))
    for tries in range(1, 11):
        rng.shuffle(order)
        if all(place != other for place, other in enumerate(order)):
            break
    else:
        raise SystemExit(f"ten tries in vain: n {n}, seed {seed}")
    print(n, seed, order, f"after {tries}")

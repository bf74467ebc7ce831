"""Writes python_random.jsonl: what CPython's random.Random draws for numbers and for 100 random texts and some known ones.

Run in this folder: python3 make_python_random.py
"""

import json
import random

POOLS = ["abcdefghij .,!?\n", "äöüßéèñçøå", "русский текст", "漢字仮名交じり文", "😀🚀🧑‍🌾\u0000\u0001", '"\\{}[]%$']


def texts():
    maker = random.Random(20230522)
    for i in range(100):
        pools = maker.sample(POOLS, maker.randrange(1, 4))
        alphabet = "".join(pools)
        yield "".join(maker.choice(alphabet) for _ in range(maker.randrange(0, 1 + 3 * i)))
    yield ""
    yield "\u0000"
    yield "annotatorSolve: 1+1=0"
    for purpose in ("is_switched_outputs", "noisy_preference", "annotator"):
        yield purpose + "How did US states get their names?" + "0"


def golden(seed):
    def fresh():
        return random.Random(seed)

    def drawn(draw):
        rng = fresh()
        return draw(rng)

    order = list(range(13))
    fresh().shuffle(order)
    return {
        "seed": seed,
        "random": drawn(lambda rng: [rng.random() for _ in range(4)]),
        "choices": [fresh().choices(range(n))[0] for n in range(2, 15)],
        "choices_weighted": drawn(lambda rng: [rng.choices(range(4), weights=[0.5, 0.25, 0.0, 0.1])[0] for _ in range(4)]),
        "bits": drawn(lambda rng: [rng.getrandbits(n) for n in (1, 5, 31, 32, 33, 63, 64)]),
        "below": drawn(lambda rng: [rng.randrange(n) for n in (1, 2, 13, 805, 1 << 40)]),
        "shuffled": order,
        "sample": [fresh().sample(range(n), k) for n, k in ((10, 4), (40, 7), (1000, 4))],
    }


with open("python_random.jsonl", "w", encoding="utf-8") as file:
    for seed in [0, 1, 123, 2**32 - 1, 2**32, 2**64 - 1, *texts()]:
        file.write(json.dumps(golden(seed)) + "\n")

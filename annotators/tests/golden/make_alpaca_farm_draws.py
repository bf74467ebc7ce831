"""Writes alpaca_farm_draws.jsonl: member, noise and order that AlpacaFarm's way of seeding gives for some instructions.

The three ways are written down here from what is known of the programs (AlpacaFarm 0.1, AlpacaFarm 0.2, AlpacaEval), with
Python's own `random` and none of their code. Run in this folder: python3 make_alpaca_farm_draws.py
"""

import json
import random

MEMBERS = [f"gpt4_{i}" for i in range(1, 6)] + [f"chatgpt_{i}" for i in range(1, 5)] + [f"davinci003_{i}" for i in range(1, 5)]
WORDS = "name three Länder that border Österreich ; 翻译 this 文 into English 🐄 write a_poem about (it) \"now\" \\n {output_1}".split(" ")


def examples():
    maker = random.Random(7)
    for i in range(60):
        asked = " ".join(maker.choices(WORDS, k=maker.randrange(1, 12))) + f" {i}."
        given = "\n".join(maker.choices(WORDS, k=maker.randrange(1, 6))) if i % 3 == 0 else ""
        yield asked, given


def texts(way, asked, given):
    """What seeds member and noise, and what seeds the order."""
    joined = asked + "\n\n" + given if given else asked
    if way == "alpaca_farm":
        return given + joined, joined
    if way == "alpaca_farm_0_1":
        return asked + given, asked
    return joined, joined


def pick(seed, choices, weights=None):
    return random.Random(seed).choices(choices, weights=weights, k=1)[0]


with open("alpaca_farm_draws.jsonl", "w", encoding="utf-8") as file:
    for asked, given in examples():
        for way in ("alpaca_farm", "alpaca_farm_0_1", "alpaca_eval"):
            keys, order_key = texts(way, asked, given)
            for seed in (0, 42):
                line = {
                    "instruction": asked,
                    "input": given,
                    "seeding": way,
                    "seed": seed,
                    "member": pick(f"annotator{keys}{seed}", MEMBERS),
                    "weighted_member": pick(f"annotator{keys}{seed}", MEMBERS, [1.0 + i % 4 for i in range(13)]),
                    "noise": [pick(f"noisy_preference{keys}{seed}", [None, 1, 2], [1 - p * 2, p, p]) for p in (0.25, 0.1)],
                    "swapped": pick(f"is_switched_outputs{order_key}{seed}", [False, True]),
                }
                file.write(json.dumps(line) + "\n")

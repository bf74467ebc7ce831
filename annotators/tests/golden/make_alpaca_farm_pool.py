"""Writes alpaca_farm_pool.jsonl: what AlpacaFarm's pool of thirteen, with label noise, says on 240 pairs.

Member, order and noise are drawn with Python's own `random` as AlpacaFarm 0.1 seeds them (instruction and input one after the other; the
order by the instruction alone). The judges are stand-ins with a rule each, and every answer carries its worth, `<<17>>`: members of even
place prefer the worthier of the two shown, members of odd place the other, and chatgpt_4 whatever is shown first. Run in this folder:
python3 make_alpaca_farm_pool.py
"""

import json
import random

MEMBERS = [f"gpt4_{i}" for i in range(1, 6)] + [f"chatgpt_{i}" for i in range(1, 5)] + [f"davinci003_{i}" for i in range(1, 5)]
P_FLIP = 0.1


def pick(seed, choices, weights=None):
    return random.Random(seed).choices(choices, weights=weights, k=1)[0]


def shown_first_wins(member, first, second):
    if member == "chatgpt_4":
        return True
    return (first > second) == (MEMBERS.index(member) % 2 == 0)


maker = random.Random(11)
with open("alpaca_farm_pool.jsonl", "w", encoding="utf-8") as file:
    for i in range(240):
        asked = f"Describe animal {i} in {maker.choice(['one line', 'two Sätzen', '三行', 'a {output_1} way'])}."
        given = f"It lives in region {maker.randrange(50)}." if i % 3 == 0 else ""
        worths = maker.sample(range(10_000), 2)
        outputs = [f"{maker.choice(['It hunts', 'It sleeps', 'Es frisst'])} here <<{worth}>>." for worth in worths]
        if i % 40 == 7:
            outputs[1] = outputs[0]
        member = pick(f"annotator{asked}{given}0", MEMBERS)
        noise = pick(f"noisy_preference{asked}{given}0", [None, 1, 2], [1 - 2 * P_FLIP, P_FLIP, P_FLIP])
        swapped = pick(f"is_switched_outputs{asked}0", [False, True])
        if outputs[0] == outputs[1]:
            how, preference = "identical", 1.5
        elif noise is not None:
            how, preference = "noise", noise
        else:
            shown = worths[::-1] if swapped else worths
            how, preference = "judged", 1 if shown_first_wins(member, *shown) != swapped else 2
        line = {"instruction": asked, "input": given, "output_1": outputs[0], "output_2": outputs[1]}
        line |= {"member": member, "swapped": swapped, "how": how, "preference": preference}
        file.write(json.dumps(line) + "\n")

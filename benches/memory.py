"""Compares the memory that learners expect with the memory that they take, each in a fresh process.

    python benches/memory.py --farmhand target/debug/farmhand --model SmolLM2-135M-Instruct \\
        --rows alpaca.jsonl.gz --pairs preferences.jsonl.gz --budgets 512,2048,4096 --out memory.json

One optimiser step of a little more than two forward passes, so that gradients stand beside the activations of the second.
The peak is the kernel's for the whole process, loading and saving included.
"""

import argparse
import json
import pathlib
import tempfile

import records
from farmhand_side import Farmhand

LEARNERS = ("sft", "dpo", "reward_model", "ppo")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--farmhand", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--rows", type=pathlib.Path, required=True)
    parser.add_argument("--pairs", type=pathlib.Path, required=True)
    parser.add_argument("--budgets", default="512,2048,4096", help="tokens per forward pass")
    parser.add_argument("--learners", default=",".join(LEARNERS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of every learner, e.g. checkpoint_every=1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("memory.json"))
    return parser.parse_args()


def main():
    arguments = parse()
    farmhand = Farmhand(arguments.farmhand, arguments.threads)
    more = dict(setting.split("=", 1) for setting in arguments.set)
    report = []
    print(f"{arguments.model.name}: {'learner':14} {'tokens':>7} {'expected':>10} {'taken':>10}  expected / taken")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        folder = pathlib.Path(folder)
        judge = folder / "judge"
        for budget in map(int, arguments.budgets.split(",")):
            # A row of these sets has about 110 tokens, a pair about 170 with its prompt once.
            rows = records.write(folder / "rows.jsonl", records.demonstrations(arguments.rows, max(8, budget // 45), 1500))
            pairs = records.write(folder / "pairs.jsonl", records.pairs(arguments.pairs, max(4, budget // 70), 1500))
            options = {"micro_batch_tokens": budget, "micro_batch_size": 4096, **more}
            model = str(arguments.model)
            for learner in arguments.learners.split(","):
                if learner == "ppo" and not judge.exists():
                    farmhand.reward_model(model, str(pairs), 4, out=judge)
                if learner == "ppo":
                    n = max(4, budget // 45)
                    result = farmhand.ppo(model, str(judge), str(rows), 1, n, n, 32, **options)
                else:
                    data = rows if learner == "sft" else pairs
                    result = getattr(farmhand, learner)(model, str(data), 4096, **options)
                expected = next((v[0] for k, v in result["scalars"].items() if k.endswith("/expected_bytes")), None)
                taken = result["peak_bytes"]
                report.append({"learner": learner, "tokens": budget, "expected_bytes": expected, "peak_bytes": taken, "figures": result["figures"]})
                share = f"{expected / taken:.2f}" if expected else "-"
                print(f"{'':{len(arguments.model.name) + 1}} {learner:14} {budget:7} {(expected or 0) / 1e6:7.0f} MB {taken / 1e6:7.0f} MB  {share}", flush=True)
                arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

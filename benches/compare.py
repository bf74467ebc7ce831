"""Measures farmhand beside TRL and transformers: same model, data, threads and precision (float32), in turns, in one run.

    python benches/compare.py --farmhand target/debug/farmhand --model SmolLM2-135M-Instruct \\
        --rows alpaca.jsonl.gz --pairs preferences.jsonl.gz --out smollm2.json

Every figure is a fresh process on either side. Tokens are real tokens, prompts included and padding left out, counted once and
used for both sides (where answers are sampled, each side's own). Times leave out start-up, tokenisation and saving; they
include collating batches, optimiser steps and, for DPO, the reference. Ratios are of tokens per second, farmhand over the
peer, one per round; above 1 farmhand is faster. `--quick` only tries the scripts.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import records
from farmhand_side import Failed, Farmhand

HERE = pathlib.Path(__file__).parent


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--farmhand", type=pathlib.Path, required=True, help="the program `farmhand`")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--rows", type=pathlib.Path, help="demonstrations: instruction, input, output (JSON lines, may be .gz)")
    parser.add_argument("--pairs", type=pathlib.Path, help="pairs: chosen and rejected, or output_1, output_2 and votes or a label")
    parser.add_argument("--phases", default=",".join(PHASES), help="of " + ", ".join(PHASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n-rows", type=int, default=96)
    parser.add_argument("--n-pairs", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16, help="records per optimiser step on both sides")
    parser.add_argument("--longest", type=int, default=2500, help="characters of a record at most")
    parser.add_argument("--new-tokens", type=int, default=192, help="tokens of a generated answer at most")
    parser.add_argument("--all-variants", action="store_true", help="also measure the peers with their other settings")
    parser.add_argument("--quick", action="store_true", help="one round, few records")
    parser.add_argument("--python", default=sys.executable, help="the Python that has torch, transformers and trl")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("compare.json"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.n_rows, arguments.n_pairs, arguments.batch, arguments.new_tokens = 1, 16, 8, 8, 24
    return arguments


class Comparison:
    """One model, one set of records, both sides."""

    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.farmhand = Farmhand(arguments.farmhand, arguments.threads)
        self.model = str(arguments.model)
        self.eos = end_tokens(arguments.model)
        self.report = {}

    def rows(self):
        if self.arguments.rows is None:
            raise SystemExit("error: this phase needs `--rows FILE`")
        rows = records.demonstrations(self.arguments.rows, self.arguments.n_rows, self.arguments.longest)
        return records.write(self.folder / "rows.jsonl", rows)

    def prompts(self, n):
        if self.arguments.rows is None:
            raise SystemExit("error: this phase needs `--rows FILE`")
        rows = records.demonstrations(self.arguments.rows, n, self.arguments.longest)
        return records.write(self.folder / f"prompts-{n}.jsonl", rows)

    def pairs(self):
        if self.arguments.pairs is None:
            raise SystemExit("error: this phase needs `--pairs FILE`")
        pairs = records.pairs(self.arguments.pairs, self.arguments.n_pairs, self.arguments.longest)
        return records.write(self.folder / "pairs.jsonl", pairs)

    def peer(self, phase, variant, data, **more):
        """One run of the peer in a fresh process."""
        result = self.folder / "peer.json"
        result.unlink(missing_ok=True)
        arguments = self.arguments
        options = {"phase": phase, "variant": variant, "model": self.model, "data": str(data), "result": str(result),
                   "threads": arguments.threads, "batch": arguments.batch, **more}
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "MKL_NUM_THREADS": str(arguments.threads)}
        started = time.time()
        done = subprocess.run([arguments.python, str(HERE / "python_side.py"), json.dumps(options)], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise Failed(f"{variant}, {phase}\n{done.stdout[-4000:]}")
        return {**json.loads(result.read_text(encoding="utf-8")), "wall_secs": time.time() - started}

    def measure(self, phase, sides, note):
        """Runs the sides in turns, the order reversed every other round, and keeps every figure."""
        runs = {name: [] for name in sides}
        for round_ in range(self.arguments.rounds):
            order = list(sides.items())
            for name, run in order if round_ % 2 == 0 else reversed(order):
                print(f"  {phase}, round {round_ + 1} of {self.arguments.rounds}: {name} ...", end="", file=sys.stderr, flush=True)
                try:
                    runs[name].append(run())
                    print(f" {runs[name][-1]['secs']:.2f} s", file=sys.stderr)
                except Failed as error:
                    print(f" failed: {error}", file=sys.stderr)
        self.report[phase] = summary(runs, note)
        print_phase(phase, self.report[phase])


def rates(result):
    return result["tokens"] / result["secs"]


def spread(numbers):
    return {"min": min(numbers), "median": statistics.median(numbers), "max": max(numbers), "n": len(numbers)}


def summary(runs, note):
    """Per side tokens/s, memory and start-up; per peer the ratio of each round."""
    sides = {}
    for name, results in runs.items():
        if results:
            sides[name] = {
                "tokens_per_sec": spread([rates(result) for result in results]),
                "peak_bytes": spread([result["peak_bytes"] for result in results]),
                "startup_secs": spread([result["startup_secs"] for result in results]),
                "runs": [{k: v for k, v in result.items() if not isinstance(v, list)} for result in results],
            }
    ours = runs["farmhand"]
    ratios = {}
    for name, results in runs.items():
        if name != "farmhand" and results and len(results) == len(ours):
            ratios[name] = {
                "tokens_per_sec": spread([rates(a) / rates(b) for a, b in zip(ours, results)]),
                "peak_bytes": spread([a["peak_bytes"] / b["peak_bytes"] for a, b in zip(ours, results)]),
            }
    return {"note": note, "sides": sides, "ratios": ratios}


def print_phase(phase, report):
    print(f"\n{phase}: {report['note']}")
    for name, side in report["sides"].items():
        speed, memory = side["tokens_per_sec"], side["peak_bytes"]["max"] / 1e6
        line = f"  {name:28} {speed['median']:9.1f} tokens/s ({speed['min']:.1f} to {speed['max']:.1f})  {memory:7.0f} MB at most"
        line += f"  first step after {side['startup_secs']['median']:.1f} s"
        if name in report["ratios"]:
            ratio = report["ratios"][name]["tokens_per_sec"]
            line += f"  farmhand x {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
            line += f", memory x {report['ratios'][name]['peak_bytes']['median']:.2f}"
        print(line)
    sys.stdout.flush()


def phase_secs(result, *names):
    """Seconds of the phases whose names are given; a phase that did not run took none."""
    missing = [name for name in names if name not in result["phases"]]
    if missing:
        raise Failed(f"the log has no phase {missing}, it has {list(result['phases'])}")
    return sum(result["phases"][name] for name in names)


def ours(result, secs, tokens, **more):
    return {"secs": secs, "tokens": tokens, "peak_bytes": result["peak_bytes"], "startup_secs": result["startup_secs"],
            "wall_secs": result["wall_secs"], "cpu_secs": result["cpu_secs"], "figures": result["figures"], **more}


def training(comparison, phase, data, variants, run, phases, note, **more):
    """A training phase: the peer counts the tokens, both sides use its count."""
    count = {}

    def peer(variant):
        result = comparison.peer(phase, variant, data, **more)
        count["tokens"] = result["tokens"]
        return result

    def farmhand():
        if not count:
            peer(variants[0])
        result = run()
        return ours(result, phase_secs(result, *phases), count["tokens"])

    sides = {"farmhand": farmhand, **{variant: (lambda variant=variant: peer(variant)) for variant in variants}}
    comparison.measure(phase, sides, note)


def sft(comparison):
    arguments = comparison.arguments
    data = comparison.rows()
    characters = sum(len(text) for row in records.read(data) for text in row.values())
    # About four characters a token and the prompt's frame of 30 tokens: blocks of 1024 that hold as much as a step's rows.
    blocks = max(1, round((characters / 4 / arguments.n_rows + 30) * arguments.batch / 1024))
    variants = ["TRL SFTTrainer"]
    if arguments.all_variants:
        variants += ["TRL, packing", "TRL, group by length", "TRL, checkpointing (its default)"]
    training(comparison, "sft", data, variants, lambda: comparison.farmhand.sft(comparison.model, str(data), arguments.batch),
             ["supervised fine-tuning"], f"{arguments.n_rows} rows, {arguments.batch} a step, loss on the answer", blocks=blocks)


def dpo(comparison):
    arguments = comparison.arguments
    data = comparison.pairs()
    variants = ["TRL DPOTrainer"]
    if arguments.all_variants:
        variants += ["TRL, precomputed reference", "TRL, checkpointing (its default)"]
    training(comparison, "dpo", data, variants, lambda: comparison.farmhand.dpo(comparison.model, str(data), arguments.batch),
             ["reference log-probabilities", "preference optimisation"],
             f"{arguments.n_pairs} pairs, {arguments.batch} a step, one epoch, the reference's pass included")


def reward_model(comparison):
    arguments = comparison.arguments
    data = comparison.pairs()
    training(comparison, "reward_model", data, ["TRL RewardTrainer"],
             lambda: comparison.farmhand.reward_model(comparison.model, str(data), arguments.batch), ["reward modelling"],
             f"{arguments.n_pairs} pairs, {arguments.batch} a step")


def online(method):
    """Steps of `method` beside TRL's GRPO: TRL 1.16 has no PPO. PPO does more: it also runs and trains a value model."""

    def run(comparison):
        arguments = comparison.arguments
        steps, rollouts, batch, group = (1, 8, 8, 4) if arguments.quick else (1, 32, 16, 8)
        new_tokens = min(arguments.new_tokens, 96)
        pairs, prompts = comparison.pairs(), comparison.prompts(rollouts)
        judge = comparison.folder / "judge"
        if not judge.exists():
            comparison.farmhand.reward_model(comparison.model, str(pairs), arguments.batch, out=judge)

        def farmhand():
            given = (comparison.model, str(judge), str(prompts), steps, rollouts)
            if method == "ppo":
                result = comparison.farmhand.ppo(*given, batch, new_tokens)
            else:
                result = comparison.farmhand.grpo(*given, group, new_tokens)
            numbers = result["scalars"]
            tokens = round(sum(numbers[f"{method}/response_length"]) * rollouts)
            parts = {part: sum(numbers[f"{method}/{part}_secs"]) for part in ("rollout", "score", "update") if f"{method}/{part}_secs" in numbers}
            # Of the phases, tokenising and the steps, the steps are the long one.
            return ours(result, max(result["phases"].values()), tokens, parts=parts, steps=steps, mean_length=tokens / rollouts / steps)

        def peer():
            return comparison.peer("ppo", "TRL GRPOTrainer", prompts, rollouts=rollouts, group=group, steps=steps, new_tokens=new_tokens,
                                   reward_model=str(judge / "checkpoint"), batch=batch)

        what = "farmhand runs PPO with a value model, TRL runs GRPO (half the updating)" if method == "ppo" else "GRPO on both sides"
        comparison.measure(method, {"farmhand": farmhand, "TRL GRPOTrainer": peer},
                           f"{steps} step of {rollouts} rollouts of at most {new_tokens} tokens; tokens/s are sampled tokens over the "
                           f"whole step; {what}, both with a reference and a reward model")

    return run


def score(comparison):
    data = comparison.rows()
    kept = {}

    def peer():
        result = comparison.peer("score", "transformers", data, device_batch=8)
        kept.update(tokens=result["tokens"], sums=result["sums"])
        return result

    def farmhand():
        if not kept:
            peer()
        result = comparison.farmhand.score(comparison.model, str(data))
        sums = [line["sum_log_prob"] for line in sorted(result["scores"], key=lambda line: line["index"])]
        apart = max(abs(a - b) for a, b in zip(sums, kept["sums"], strict=True))
        return ours(result, phase_secs(result, "scoring"), kept["tokens"], largest_difference=apart)

    comparison.measure("score", {"farmhand": farmhand, "transformers": peer}, f"{comparison.arguments.n_rows} rows, batches of 8 padded there")


def generation(n, samples=1):
    def run(comparison):
        arguments = comparison.arguments
        data, seen = comparison.prompts(n), {}

        def farmhand():
            if samples > 1:
                result = comparison.farmhand.best_of(comparison.model, str(data), samples, arguments.new_tokens)
            else:
                result = comparison.farmhand.generate(comparison.model, str(data), arguments.new_tokens)
            lengths = [completion["n_tokens"] for completion in result["completions"]]
            seen["texts"] = [completion["output"] for completion in result["completions"]]
            return ours(result, phase_secs(result, "sampling"), sum(lengths), longest=max(lengths), mean_length=sum(lengths) / len(lengths))

        def peer():
            result = comparison.peer("generate", "transformers", data, new_tokens=arguments.new_tokens, samples=samples, eos=comparison.eos)
            if samples == 1 and "texts" in seen:
                result["identical"] = sum(a == b for a, b in zip(seen["texts"], result["texts"], strict=True)) / n
            return {**result, "longest": max(result["lengths"]), "mean_length": statistics.mean(result["lengths"])}

        what = f"{samples} samples of {n} prompt" if samples > 1 else f"{n} greedy answers"
        name = f"best_of_{samples}" if samples > 1 else f"generate_{n}"
        comparison.measure(name, {"farmhand": farmhand, "transformers generate": peer},
                           f"{what}, at most {arguments.new_tokens} tokens; transformers runs one batch until its longest answer ends")

    return run


PHASES = {
    "sft": sft, "dpo": dpo, "reward_model": reward_model, "ppo": online("ppo"), "grpo": online("grpo"),
    "score": score,
    "generate_1": generation(1), "generate_16": generation(16), "generate_64": generation(64), "best_of_16": generation(1, samples=16),
}


def end_tokens(model):
    """The tokens that end an answer: the configuration's and the tokenizer's."""
    found = set()
    for name in ("config.json", "generation_config.json"):
        if (model / name).exists():
            value = json.loads((model / name).read_text(encoding="utf-8")).get("eos_token_id")
            found.update(value if isinstance(value, list) else [value])
    name = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    name = name.get("content") if isinstance(name, dict) else name
    added = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    found.update(token["id"] for token in added if token["content"] == name)
    return sorted(found - {None})


def machine(arguments):
    """What the figures were taken on, and whether something else was running."""
    name = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    versions = "import torch, transformers, trl; print(torch.__version__, transformers.__version__, trl.__version__)"
    found = subprocess.run([arguments.python, "-c", versions], capture_output=True, text=True).stdout.split()
    return {"cpu": name, "cores": os.cpu_count(), "threads": arguments.threads, "load_before": os.getloadavg()[0],
            "versions": dict(zip(["torch", "transformers", "trl"], found))}


def main():
    arguments = parse()
    wanted = arguments.phases.split(",")
    unknown = [name for name in wanted if name not in PHASES]
    if unknown:
        raise SystemExit(f"error: unknown phase {', '.join(unknown)}; known are {', '.join(PHASES)}")
    report = {"machine": machine(arguments), "model": arguments.model.name, "settings": {k: str(v) for k, v in vars(arguments).items()}}
    print(f"{report['machine']['cpu']}, {arguments.threads} thread(s), load {report['machine']['load_before']:.2f}, {report['machine']['versions']}")
    if report["machine"]["load_before"] > 0.3:
        print("note: something else is running; ratios are still of neighbouring runs, times are not those of an idle machine")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        comparison = Comparison(arguments, pathlib.Path(folder))
        for name in wanted:
            PHASES[name](comparison)
            report["phases"] = comparison.report
            arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()

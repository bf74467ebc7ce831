"""farmhand's side: one command of the program, its time and tokens from what it records, its memory from the kernel."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time


class Failed(Exception):
    """A command ended with an error."""


class Farmhand:
    """Runs `farmhand` commands, each in a fresh process with an output folder of its own."""

    def __init__(self, program, threads):
        self.program, self.threads = str(program), str(threads)

    def run(self, command, out=None, settings=(), flags=()):
        """Runs one command; gives back what it recorded, its peak memory and the seconds it took altogether."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-"))
        try:
            target = out or folder / "out"
            arguments = [self.program, *command, "--threads", self.threads, "--quiet", *flags]
            arguments += ["--events", str(folder / "events.jsonl")] if command[0] == "score" else ["--out", str(target)]
            for setting in settings:
                arguments += ["--set", setting]
            started = time.time()
            with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
                process = subprocess.Popen(arguments, stdout=stdout, stderr=stderr)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                raise Failed(f"{' '.join(arguments)}\n{(folder / 'stderr').read_text()}")
            log = folder / "events.jsonl" if command[0] == "score" else target / "events.jsonl"
            events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            result = {
                "wall_secs": time.time() - started,
                "cpu_secs": usage.ru_utime + usage.ru_stime,
                # The program counts its peak anew with every phase, so the kernel's figure is that since the last one began.
                "peak_bytes": max([usage.ru_maxrss * 1024] + [int(f["peak_bytes"]) for f in figures(events).values() if "peak_bytes" in f]),
                "startup_secs": next(e["time"] for e in events if e["event"] == "phase_started") - started,
                "phases": phases(events),
                "figures": figures(events),
                "scalars": scalars(events),
            }
            completions = target / "completions.jsonl"
            if completions.exists():
                result["completions"] = [json.loads(line) for line in completions.read_text(encoding="utf-8").splitlines()]
            if command[0] == "score":
                result["scores"] = [json.loads(line) for line in (folder / "stdout").read_text(encoding="utf-8").splitlines()]
            return result
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sft(self, model, data, batch, **options):
        settings = ["epochs=1", f"batch_size={batch}", "optim.lr=1e-5", *extra(options)]
        return self.run(["sft", "--model", model, "--data", data, "--template", "alpaca"], settings=settings)

    def dpo(self, model, data, batch, **options):
        settings = ["epochs=1", f"batch_size={batch}", "optim.lr=1e-6", "reference_cache=false", *extra(options)]
        return self.run(["learn", "dpo", "--model", model, "--data", data, "--template", "alpaca"], settings=settings)

    def reward_model(self, model, data, batch, out=None, **options):
        settings = ["epochs=1", f"batch_size={batch}", "optim.lr=1e-5", "with_eos=true", *extra(options)]
        return self.run(["reward-model", "--model", model, "--data", data, "--template", "alpaca"], out=out, settings=settings)

    def ppo(self, model, reward_model, data, steps, rollouts, batch, new_tokens, **options):
        settings = [f"steps={steps}", f"rollout_size={rollouts}", f"batch_size={batch}", f"max_new_tokens={new_tokens}",
                    "inner_epochs=1", "optim.lr=1e-6", "value_optim.lr=1e-6", *extra(options)]
        command = ["learn", "ppo", "--model", model, "--reward-model", reward_model, "--data", data, "--template", "alpaca"]
        return self.run(command, settings=settings)

    def grpo(self, model, reward_model, data, steps, rollouts, group, new_tokens, **options):
        settings = [f"steps={steps}", f"prompts_per_step={rollouts // group}", f"samples_per_prompt={group}", f"batch_size={rollouts}",
                    f"max_new_tokens={new_tokens}", "inner_epochs=1", "kl_weight=0.05", "optim.lr=1e-6", *extra(options)]
        command = ["learn", "grpo", "--model", model, "--reward-model", reward_model, "--data", data, "--template", "alpaca"]
        return self.run(command, settings=settings)

    def score(self, model, data):
        return self.run(["score", "--model", model, "--data", data, "--template", "alpaca"])

    def generate(self, model, data, new_tokens):
        flags = ["--temperature", "0", "--max-new-tokens", str(new_tokens)]
        return self.run(["generate", "--model", model, "--data", data, "--template", "alpaca"], flags=flags)

    def best_of(self, model, data, n, new_tokens):
        flags = ["-n", str(n), "--max-new-tokens", str(new_tokens)]
        return self.run(["sample", "--model", model, "--data", data, "--template", "alpaca"], flags=flags)


def extra(options):
    return [f"{key}={value}" for key, value in options.items()]


def phases(events):
    """Seconds of each phase by name."""
    seconds = {}
    for event in events:
        if event["event"] == "phase_finished":
            seconds[event["phase"]] = seconds.get(event["phase"], 0.0) + event["secs"]
    return seconds


def figures(events):
    """What the program measured of each phase by name; of one that ran several times, the last."""
    return {event["phase"]: event["figures"] for event in events if event["event"] == "phase_measured"}


def scalars(events):
    """The numbers of each scalar in order."""
    numbers = {}
    for event in events:
        if event["event"] == "scalar":
            numbers.setdefault(event["name"], []).append(event["value"])
    return numbers

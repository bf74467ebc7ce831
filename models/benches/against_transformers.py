"""Compares numbers and times with transformers, side by side in one run.

    cargo build -p farmhand-models --example engine
    OMP_NUM_THREADS=1 python models/benches/against_transformers.py MODEL_FOLDER path/to/target/debug/examples/engine [--rounds 5]

Both sides take turns, so that another load on the machine hits both. CPU seconds are the steadier measure on a machine that
others use too.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

import torch
import transformers
from safetensors.torch import load_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("engine", type=pathlib.Path)
parser.add_argument("--rounds", type=int, default=5)
arguments = parser.parse_args()

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
engine = subprocess.Popen([arguments.engine], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(command, options):
    engine.stdin.write(json.dumps({command: options}) + "\n")
    engine.stdin.flush()
    return json.loads(engine.stdout.readline())


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


generator = torch.Generator().manual_seed(0)
model = load(arguments.model)
vocabulary = model.config.vocab_size


def random_ids(n):
    return torch.randint(5, vocabulary, (n,), generator=generator).tolist()


def largest_difference(model, ids):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "logits.safetensors"
        ask("logits", {"ids": ids, "file": str(file)})
        ours = load_file(file)["logits"]
    with torch.no_grad():
        return (model(torch.tensor([ids])).logits[0] - ours).abs().max().item()


def transformers_greedy(prompts, n):
    ids = torch.tensor(prompts)
    start = time.perf_counter()
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=n, max_new_tokens=n,
                             eos_token_id=None, pad_token_id=0)
    return out[:, ids.shape[1]:].tolist(), time.perf_counter() - start


def transformers_train(rows, start):
    ids = torch.tensor(rows)
    labels = ids.clone()
    labels[:, :start] = -100
    model.zero_grad()
    begin = time.perf_counter()
    loss = model(ids, labels=labels).loss
    loss.backward()
    seconds = time.perf_counter() - begin
    return loss.item(), seconds


print("load here:", ask("load", str(arguments.model))["seconds"], "s")
ids = random_ids(200)
print("largest difference of a logit, 200 random tokens:", largest_difference(model, ids))
tokens, _ = transformers_greedy([ids[:20]], 64)
print("64 greedy tokens identical:", tokens == ask("greedy", {"prompts": [ids[:20]], "n": 64})["tokens"])
with tempfile.TemporaryDirectory() as folder:
    print("save here:", ask("save", folder)["seconds"], "s")
    print("largest difference after saving here and loading there:", largest_difference(load(folder), ids))
    model.save_pretrained(folder + "/sharded", max_shard_size="100MB")
    print("shards:", len(list(pathlib.Path(folder, "sharded").glob("*.safetensors"))))
    ask("load", folder + "/sharded")
    print("largest difference after saving there in shards and loading here:", largest_difference(model, ids))
    rows = [random_ids(30), random_ids(30)]
    ours = ask("scalar", {"from": str(arguments.model), "to": folder + "/scalar", "rows": rows})["scores"]
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder + "/scalar", dtype=torch.float32).eval()
    with torch.no_grad():
        scores = torch.cat([classifier(torch.tensor([ids])).logits[:, 0] for ids in rows])
    print("largest difference of a score, scalar model saved here and loaded there:", (scores - torch.tensor(ours)).abs().max().item())
    del classifier


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(name, ours, theirs):
    """Times both in turns: wall and CPU seconds of each."""
    wall, cpu = ([], []), ([], [])
    for _ in range(arguments.rounds):
        for side, (run, pid) in enumerate([(ours, engine.pid), (theirs, os.getpid())]):
            start = cpu_seconds(pid)
            wall[side].append(run())
            cpu[side].append(cpu_seconds(pid) - start)
    for unit, (here, there) in [("wall", map(sorted, wall)), ("CPU", map(sorted, cpu))]:
        middle = len(here) // 2
        print(f"  {name}, {unit}: here {here[0]:.2f} s, transformers {there[0]:.2f} s, ratio of minima {here[0] / there[0]:.2f}, "
              f"of medians {here[middle] / there[middle]:.2f}")


for rows, width, start in [(2, 128, 1), (2, 128, 64), (8, 64, 32)]:
    batch = [random_ids(width) for _ in range(rows)]
    ours, (loss, _) = ask("train", {"rows": batch, "start": start, "norm": True}), transformers_train(batch, start)
    norm = sum(p.grad.double().square().sum() for p in model.parameters()).sqrt().item()
    print(f"train {rows} x {width}: loss {ours['loss']:.5f} and {loss:.5f}, gradient norm {ours['gradient_norm']:.5f} and {norm:.5f}")
    compare(f"train {rows} x {width}, response from {start}",
            lambda: ask("train", {"rows": batch, "start": start, "norm": False})["seconds"],
            lambda: transformers_train(batch, start)[1])
for rows in (1, 8):
    prompts = [random_ids(32) for _ in range(rows)]
    compare(f"greedy {rows} x 64 tokens", lambda: ask("greedy", {"prompts": prompts, "n": 64})["seconds"],
            lambda: transformers_greedy(prompts, 64)[1])

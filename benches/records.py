"""Rows and pairs for both sides: read from files of the field, sampled with a fixed seed, written as JSON lines."""

import gzip
import json
import random
from collections import Counter


def read(path):
    opened = gzip.open(path, "rt", encoding="utf-8") if str(path).endswith(".gz") else open(path, encoding="utf-8")
    with opened as lines:
        return [json.loads(line) for line in lines if line.strip()]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def alpaca_prompt(record):
    """The Alpaca prompt, which ends exactly at `### Response:`; the answer follows the colon directly."""
    given = record.get("input") or ""
    context = ", paired with an input that provides further context" if given else ""
    text = f"Below is an instruction that describes a task{context}. Write a response that appropriately completes the request."
    text += f"\n\n### Instruction:\n{record['instruction']}"
    return text + (f"\n\n### Input:\n{given}" if given else "") + "\n\n### Response:"


def demonstrations(path, n, longest):
    """`n` rows with `instruction`, `input` and `output`, of at most `longest` characters together."""
    rows = [{"instruction": row["instruction"], "input": row.get("input") or "", "output": row["output"]} for row in read(path)]
    return sample([row for row in rows if row["output"].strip()], n, longest)


def pairs(path, n, longest):
    """`n` pairs with `instruction`, `input`, `chosen` and `rejected`; ties and identical answers are left out."""
    found = []
    for row in read(path):
        chosen, rejected = row.get("chosen"), row.get("rejected")
        if "output_1" in row:
            votes = row.get("humans", [row.get("preference", row.get("label"))])
            (winner, count), *_ = Counter(votes).most_common(1)
            if winner not in (1, 2) or 2 * count <= len(votes):
                continue
            outputs = (row["output_1"], row["output_2"])
            chosen, rejected = outputs if winner == 1 else reversed(outputs)
        if isinstance(chosen, str) and isinstance(rejected, str) and chosen != rejected and chosen.strip() and rejected.strip():
            found.append({"instruction": row["instruction"], "input": row.get("input") or "", "chosen": chosen, "rejected": rejected})
    return sample(found, n, longest)


def sample(rows, n, longest):
    rows = [row for row in rows if sum(map(len, row.values())) <= longest]
    if len(rows) < n:
        raise SystemExit(f"error: {len(rows)} usable records, {n} are asked for")
    return random.Random(0).sample(rows, n)


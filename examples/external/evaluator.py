"""An evaluator in Python: how many answers end with a full stop, and how many were cut off.

[[evaluate.evaluators]]
command = { command = ["python3", "evaluator.py"] }
"""
import json
import sys

sys.stdin.readline()
print(json.dumps({"farmhand": 1}), flush=True)


def share(name, hits, higher_is_better):
    n = max(1, len(hits))
    p = sum(hits) / n
    error = (p * (1 - p) / n) ** 0.5
    return {"name": name, "value": 100 * p, "std_error": 100 * error, "n": len(hits), "unit": "%",
            "higher_is_better": higher_is_better}


for line in sys.stdin:
    request = json.loads(line)
    answers = request["completions"]
    ended = share("ends_with_full_stop", [a["output"].rstrip().endswith(".") for a in answers], True)
    cut_off = share("cut_off", [a["finish"] == "length" for a in answers], False)
    print(json.dumps({"id": request["id"], "results": [ended, cut_off]}), flush=True)

"""An annotator in Python: the answer that takes up more words of the instruction is better.

[annotator.command]
command = ["python3", "annotator.py"]
"""
import json
import re
import sys

sys.stdin.readline()
print(json.dumps({"farmhand": 1}), flush=True)


def overlap(instruction, output):
    words = lambda text: set(re.findall(r"\w+", text.lower()))
    return len(words(instruction) & words(output))


def judge(item):
    first, second = (overlap(item["instruction"], item[key]) for key in ("output_1", "output_2"))
    preference = 1.5 if first == second else 1 if first > second else 2
    return {"preference": preference, "scores": [first, second], "raw": f"{first} and {second} words"}


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"id": request["id"], "results": [judge(item) for item in request["items"]]}), flush=True)

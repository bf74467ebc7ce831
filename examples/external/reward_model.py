"""A reward model in Python: answers near a length, with few repeated words, score high.

[reward_model.command] or reward_model = { command = { command = ["python3", "reward_model.py"], options = { words = 12 } } }
"""
import json
import sys

hello = json.loads(sys.stdin.readline())
target = hello["options"].get("words", 12)
print(json.dumps({"farmhand": 1}), flush=True)


def score(item):
    words = item["output"].lower().split()
    variety = len(set(words)) / max(1, len(words))
    return variety - abs(len(words) - target) / target


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"id": request["id"], "results": [score(item) for item in request["items"]]}), flush=True)

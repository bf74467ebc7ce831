"""The peers' side: one phase in a fresh process, with TRL's trainers or transformers. Called by compare.py.

    python python_side.py '{"phase": "sft", "model": "...", "data": "...", "result": "out.json", ...}'

Everything is what a user gets from the libraries' documented interfaces, in float32 on the CPU. TRL would turn gradient
checkpointing and bfloat16 on by itself; bfloat16 is off in every variant here, checkpointing in all but those named for it.
"""

import os
import time

STARTED = time.time()

import contextlib
import json
import pathlib
import sys
import tempfile

options = json.loads(sys.argv[1])
os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRL_EXPERIMENTAL_SILENCE="1")
scratch = tempfile.TemporaryDirectory(prefix="bench-peer-")
# Nothing cached by an earlier round may be used again.
os.environ["HF_DATASETS_CACHE"] = scratch.name

import torch

torch.set_num_threads(options["threads"])
torch.manual_seed(0)

import transformers

transformers.logging.set_verbosity_error()

import records


def memory(field):
    """Bytes of VmHWM (the peak) or VmRSS of this process."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024


class Clock(transformers.TrainerCallback):
    """Seconds from the first step to the last, data collation included, start-up and saving left out."""

    def on_train_begin(self, *_, **__):
        self.began = time.time()

    def on_train_end(self, *_, **__):
        self.ended = time.time()


def tokenizer():
    loaded = transformers.AutoTokenizer.from_pretrained(options["model"])
    if loaded.pad_token is None:
        loaded.pad_token = loaded.eos_token
    return loaded


def causal_lm():
    return transformers.AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32)


def dataset(rows):
    import datasets

    datasets.disable_progress_bars()
    return datasets.Dataset.from_list(rows)


def arguments(config, **more):
    """The settings all trainers share; `variant` picks what differs."""
    batch, device_batch = options["batch"], min(options["batch"], options.get("device_batch", 8))
    settings = dict(
        output_dir=scratch.name, use_cpu=True, bf16=False, gradient_checkpointing="checkpointing" in options["variant"],
        per_device_train_batch_size=device_batch, gradient_accumulation_steps=batch // device_batch,
        num_train_epochs=1, save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )
    return config(**{**settings, **more})


def train(trainer):
    clock = Clock()
    trainer.add_callback(clock)
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    return clock


def sft():
    import trl

    more = {"learning_rate": 1e-5, "max_length": 1024}
    if "packing" in options["variant"]:
        # Blocks of 1024 tokens, each several rows; as many blocks a step as hold the same number of tokens on average.
        more |= {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": options["blocks"]}
    if "group by length" in options["variant"]:
        more |= {"train_sampling_strategy": "group_by_length"}
    rows = [{"prompt": records.alpaca_prompt(row), "completion": row["output"]} for row in records.read(options["data"])]
    trainer = trl.SFTTrainer(causal_lm(), arguments(trl.SFTConfig, **more), train_dataset=dataset(rows), processing_class=tokenizer())
    tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
    clock = train(trainer)
    return {"tokens": tokens, "secs": clock.ended - clock.began, "began": clock.began}


def preference_rows():
    prompt = records.alpaca_prompt
    return [{"prompt": prompt(row), "chosen": row["chosen"], "rejected": row["rejected"]} for row in records.read(options["data"])]


def dpo():
    import trl

    reference_secs = 0.0
    precompute = trl.DPOTrainer._precompute_ref_logps

    def timed(*given, **named):
        nonlocal reference_secs
        start = time.time()
        result = precompute(*given, **named)
        reference_secs += time.time() - start
        return result

    trl.DPOTrainer._precompute_ref_logps = timed
    more = {"precompute_ref_log_probs": "precomputed" in options["variant"], "learning_rate": 1e-6}
    args = arguments(trl.DPOConfig, **more)
    # A folder instead of a model: then the trainer loads the reference itself, as most users have it.
    args.model_init_kwargs = {"dtype": torch.float32}
    trainer = trl.DPOTrainer(options["model"], args=args, train_dataset=dataset(preference_rows()), processing_class=tokenizer())
    data = trainer.train_dataset
    tokens = sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in data)
    clock = train(trainer)
    return {"tokens": tokens, "secs": clock.ended - clock.began + reference_secs, "began": clock.began}


def reward_model():
    import trl

    args = arguments(trl.RewardConfig, learning_rate=1e-5)
    args.model_init_kwargs = {"dtype": torch.float32}
    trainer = trl.RewardTrainer(options["model"], args=args, train_dataset=dataset(preference_rows()), processing_class=tokenizer())
    tokens = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in trainer.train_dataset)
    clock = train(trainer)
    return {"tokens": tokens, "secs": clock.ended - clock.began, "began": clock.began}


def grpo():
    """Steps of GRPO with a reference and a reward model; each step samples, scores and updates once."""
    import trl

    secs = {"rollout": 0.0, "score": 0.0}
    lengths = []

    def timed(name, part):
        inner = getattr(trl.GRPOTrainer, name)

        def call(*given, **named):
            start = time.time()
            result = inner(*given, **named)
            secs[part] += time.time() - start
            return result

        setattr(trl.GRPOTrainer, name, call)

    timed("_generate_single_turn", "rollout")
    timed("_calculate_rewards", "score")
    rewards = trl.GRPOTrainer._calculate_rewards

    def count(self, inputs, prompts, completions, completion_ids):
        lengths.extend(len(ids) for ids in completion_ids)
        return rewards(self, inputs, prompts, completions, completion_ids)

    trl.GRPOTrainer._calculate_rewards = count
    n, steps = options["rollouts"], options["steps"]
    args = arguments(
        trl.GRPOConfig, num_generations=options["group"], max_completion_length=options["new_tokens"], max_steps=steps, beta=0.05,
        temperature=1.0, learning_rate=1e-6, generation_batch_size=n, logging_steps=1,
        per_device_train_batch_size=options["batch"], gradient_accumulation_steps=n // options["batch"],
    )
    args.model_init_kwargs = {"dtype": torch.float32}
    judge = transformers.AutoModelForSequenceClassification.from_pretrained(options["reward_model"], dtype=torch.float32, num_labels=1)
    pad = tokenizer()
    judge.config.pad_token_id = pad.pad_token_id
    prompts = [{"prompt": records.alpaca_prompt(row)} for row in records.read(options["data"])]
    trainer = trl.GRPOTrainer(
        options["model"], reward_funcs=judge, args=args, train_dataset=dataset(prompts), processing_class=pad,
        reward_processing_classes=tokenizer(),
    )
    clock = train(trainer)
    whole = clock.ended - clock.began
    update = whole - secs["rollout"] - secs["score"]
    return {"tokens": sum(lengths), "secs": whole, "began": clock.began, "parts": {**secs, "update": update}, "steps": steps,
            "mean_length": sum(lengths) / max(len(lengths), 1)}


def score():
    """Log-probabilities of given responses: batches padded on the right, logits of all positions, one gather."""
    codec, model = tokenizer(), causal_lm().eval()
    texts = []
    for row in records.read(options["data"]):
        prompt = codec(records.alpaca_prompt(row))["input_ids"]
        whole = codec(records.alpaca_prompt(row) + row["output"] + codec.eos_token)["input_ids"]
        texts.append((whole, len(prompt)))
    model(torch.tensor([texts[0][0][:8]]))
    began = time.time()
    sums = []
    with torch.no_grad():
        for start in range(0, len(texts), options["device_batch"]):
            batch = texts[start : start + options["device_batch"]]
            width = max(len(ids) for ids, _ in batch)
            ids = torch.tensor([ids + [codec.pad_token_id] * (width - len(ids)) for ids, _ in batch])
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch])
            logits = model(ids, attention_mask=mask).logits[:, :-1]
            picked = logits.gather(2, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
            for row, (whole, prompt) in enumerate(batch):
                sums.append(picked[row, prompt - 1 : len(whole) - 1].sum().item())
    return {"tokens": sum(len(ids) for ids, _ in texts), "secs": time.time() - began, "began": began, "sums": sums}


def generate():
    """Greedy answers of unequal length to prompts of unequal length, in one batch: it runs until the longest answer ends."""
    codec, model = tokenizer(), causal_lm().eval()
    prompts = [records.alpaca_prompt(row) for row in records.read(options["data"])]
    batch = codec(prompts, return_tensors="pt", padding=True, padding_side="left")
    settings = transformers.GenerationConfig(
        max_new_tokens=options["new_tokens"], do_sample=options["samples"] > 1, temperature=1.0 if options["samples"] > 1 else None,
        top_k=0 if options["samples"] > 1 else None, num_return_sequences=options["samples"], eos_token_id=options["eos"],
        pad_token_id=codec.pad_token_id,
    )
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        model.generate(ids[:1], attention_mask=mask[:1], generation_config=transformers.GenerationConfig(max_new_tokens=2, pad_token_id=0))
        began = time.time()
        out = model.generate(ids, attention_mask=mask, generation_config=settings)[:, ids.shape[1] :]
        secs = time.time() - began
    lengths = []
    for row in out.tolist():
        ends = [place for place, token in enumerate(row) if token in options["eos"]]
        lengths.append(ends[0] + 1 if ends else len(row))
    texts = codec.batch_decode([row[:length] for row, length in zip(out.tolist(), lengths)], skip_special_tokens=True)
    return {"tokens": sum(lengths), "secs": secs, "began": began, "lengths": lengths, "texts": texts}


phases = {"sft": sft, "dpo": dpo, "reward_model": reward_model, "ppo": grpo, "score": score, "generate": generate}
result = phases[options["phase"]]()
result["startup_secs"] = result.pop("began") - STARTED
result["peak_bytes"] = memory("VmHWM")
pathlib.Path(options["result"]).write_text(json.dumps(result), encoding="utf-8")

"""Makes the fixtures of models/tests/engine/parity.rs with transformers, the reference they are compared with.

    python models/tests/golden/make_goldens.py        (needs torch, transformers and safetensors)

For every case a folder with config.json and model.safetensors (random weights, bfloat16 to keep them small; both sides
compute in float32) and expected.json: logits of two sequences, 64 greedy tokens after the second one with and without a
repetition penalty, and the norm of every parameter's gradient of the first one's mean log-probability. Weights are scaled up so that the greedy tokens are far from ties. The case `llama_scalar`
is a sequence classifier with one label: expected.json has its scores at the last tokens. Every folder is read back by
transformers and must give the same logits before it counts as a reference.

    python models/tests/golden/make_goldens.py gemma2 phi3     makes these cases only
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (Gemma2Config, Gemma3TextConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, Phi3Config,
                          Qwen2Config, Qwen3Config)

HERE = pathlib.Path(__file__).parent
VOCABULARY = 96
SMALL = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             bos_token_id=1, eos_token_id=95, pad_token_id=0)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
# Texts of the tests have 40 tokens, and 17 and 64 more: windows of a few tokens are left behind many times.
TINY = {**SMALL, "vocab_size": 64, "eos_token_id": 63, "num_key_value_heads": 2}
ALTERNATING = dict(sliding_window=6, head_dim=8, query_pre_attn_scalar=20, max_position_embeddings=128)
NEOX = {**{key: value for key, value in TINY.items() if key != "num_key_value_heads"}, "max_position_embeddings": 128}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.5, 2.5, 6.0],
        "partial_rotary_factor": 0.75}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}

CASES = {
    # Old spelling of the rotary settings, tied head, grouped-query attention: SmolLM2 in small.
    "llama": LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 100000.0}),
    "llama3": LlamaConfig(**SMALL, num_key_value_heads=1, tie_word_embeddings=False, rope_parameters=LLAMA3, max_position_embeddings=256),
    "llama_linear_biases": LlamaConfig(**SMALL, num_key_value_heads=4, head_dim=6, attention_bias=True, mlp_bias=True,
                                       rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}),
    "llama_yarn": LlamaConfig(**SMALL, num_key_value_heads=2, rope_parameters=YARN, max_position_embeddings=128),
    "mistral": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=None),
    "qwen2": Qwen2Config(**SMALL, num_key_value_heads=2, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=95, eos_token_id=95),
    "mistral_window": MistralConfig(**TINY, sliding_window=7, head_dim=6),
    "qwen2_window": Qwen2Config(**TINY, tie_word_embeddings=True, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen3": Qwen3Config(**TINY, head_dim=12),
    "gemma2": Gemma2Config(**{**TINY, "num_hidden_layers": 3}, **ALTERNATING, attn_logit_softcapping=4.0, final_logit_softcapping=8.0),
    "gemma3": Gemma3TextConfig(**{**TINY, "num_hidden_layers": 3}, **ALTERNATING, sliding_window_pattern=2, rope_parameters={
        "full_attention": {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}),
    "gpt_neox": GPTNeoXConfig(**NEOX, rope_parameters={"rope_type": "default", "rope_theta": 200.0, "partial_rotary_factor": 0.5}),
    "gpt_neox_sequential": GPTNeoXConfig(**NEOX, use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new"),
    "phi3": Phi3Config(**TINY, sliding_window=9, max_position_embeddings=128,
                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
    "phi3_longrope": Phi3Config(**TINY, rope_parameters=LONG, original_max_position_embeddings=96, max_position_embeddings=384),
}


def randomise(model, seed):
    """Weights large enough for sharp predictions, biases and norms that differ from their start."""
    gemma = model.config.model_type.startswith("gemma")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                # Gemma scales its embedding by the root of the hidden size; beside that nothing else would be seen.
                value = noise * ((0.2 if gemma else 0.7) if "embed" in name or "wte" in name else 0.25)
            else:
                scales = name.endswith("norm.weight") or ".ln_" in name and name.endswith("weight")
                # Gemma's norms multiply by one more than their weight; large ones after a part make that part heard.
                mean = (8.0 if "post_" in name else 0.0) if gemma else 1.0
                value = noise * 0.2 + (mean if scales else 0.0)
            parameter.copy_(value.bfloat16().float())


def old_spelling(folder):
    """Writes the rotary settings as transformers did before version 5."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope == {"rope_type": "default"} else rope
    path.write_text(json.dumps(config, indent=2) + "\n")


def shard(folder):
    """Splits model.safetensors in two, with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    index = {}
    for number, part in enumerate([names[: len(names) // 2], names[len(names) // 2:]], 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        index.update({name: file for name in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}, indent=1) + "\n")
    (folder / "model.safetensors").unlink()


def main():
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or list(CASES) + ["llama_scalar"]
    for name in wanted:
        if name == "llama_scalar":
            scalar()
        else:
            language_model(name, list(CASES).index(name))


def language_model(name, seed):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    config = CASES[name]
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomise(model, seed)
    generator = torch.Generator().manual_seed(100 + seed)
    sequences = [torch.randint(1, config.vocab_size - 2, (n,), generator=generator).tolist() for n in (40, 17)]
    logits = [model(torch.tensor([ids])).logits[0] for ids in sequences]
    greedy = {}
    for penalty in [1.0, 1.3]:
        ids = torch.tensor([sequences[1]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=64, max_new_tokens=64,
                             repetition_penalty=penalty, eos_token_id=None, pad_token_id=0)
        greedy[str(penalty)] = out[0, ids.shape[1]:].tolist()
    ids = torch.tensor([sequences[0]])
    model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).mean().backward()
    # Saved under the name it had before transformers 5.
    stored = (lambda name: name.replace("lm_head.", "embed_out.")) if config.model_type == "gpt_neox" else (lambda name: name)
    gradients = {stored(name): float(f"{parameter.grad.norm():.6g}") for name, parameter in model.named_parameters()}
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "llama":
        old_spelling(folder)
    if name == "llama3":
        shard(folder)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for ids, rows in zip(sequences, logits):
        assert torch.equal(again(torch.tensor([ids])).logits[0], rows), name
    rounded = [[[round(x, 5) for x in row] for row in rows.tolist()] for rows in logits]
    (folder / "expected.json").write_text(json.dumps({"sequences": sequences, "logits": rounded, "greedy": greedy, "gradients": gradients}))
    print(name, {key: len(set(tokens)) for key, tokens in greedy.items()}, f"largest logit {max(rows.abs().max() for rows in logits):.2f}")


def scalar():
    folder = HERE / "llama_scalar"
    shutil.rmtree(folder, ignore_errors=True)
    config = LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=False, num_labels=1)
    model = transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").float().eval()
    randomise(model, 50)
    generator = torch.Generator().manual_seed(150)
    sequences = [torch.randint(1, 94, (n,), generator=generator).tolist() for n in (23, 9)]
    scores = [model(torch.tensor([ids])).logits[0, 0].item() for ids in sequences]
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "expected.json").write_text(json.dumps({"sequences": sequences, "scores": scores}) + "\n")


if __name__ == "__main__":
    main()

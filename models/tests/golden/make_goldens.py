"""Makes the fixtures of models/tests/engine/parity.rs with transformers, the reference they are compared with.

    python models/tests/golden/make_goldens.py        (needs torch, transformers and safetensors)

For every case a folder with config.json and model.safetensors (random weights, bfloat16 to keep them small; both sides
compute in float32) and expected.json: logits of two sequences, and 64 greedy tokens after the second one with and
without a repetition penalty. Weights are scaled up so that the greedy tokens are far from ties. The case `llama_scalar`
is a sequence classifier with one label: expected.json has its scores at the last tokens.
"""

import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

HERE = pathlib.Path(__file__).parent
VOCABULARY = 96
SMALL = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             bos_token_id=1, eos_token_id=95, pad_token_id=0)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
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
}


def randomise(model, seed):
    """Weights large enough for sharp predictions, biases and norms that differ from their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                value = noise * (0.7 if "embed" in name or "wte" in name else 0.25)
            else:
                value = noise * 0.2 + (1.0 if name.endswith("norm.weight") or ".ln_" in name and name.endswith("weight") else 0.0)
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
    for seed, (name, config) in enumerate(CASES.items()):
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        randomise(model, seed)
        generator = torch.Generator().manual_seed(100 + seed)
        sequences = [torch.randint(1, 94, (n,), generator=generator).tolist() for n in (40, 17)]
        logits = [model(torch.tensor([ids])).logits[0].tolist() for ids in sequences]
        greedy = {}
        for penalty in [1.0, 1.3]:
            ids = torch.tensor([sequences[1]])
            out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=64, max_new_tokens=64,
                                 repetition_penalty=penalty, eos_token_id=None, pad_token_id=0)
            greedy[str(penalty)] = out[0, ids.shape[1]:].tolist()
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        if name == "llama":
            old_spelling(folder)
        if name == "llama3":
            shard(folder)
        rounded = [[[round(x, 5) for x in row] for row in rows] for rows in logits]
        (folder / "expected.json").write_text(json.dumps({"sequences": sequences, "logits": rounded, "greedy": greedy}))
        print(name, {key: len(set(tokens)) for key, tokens in greedy.items()})
    scalar()


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

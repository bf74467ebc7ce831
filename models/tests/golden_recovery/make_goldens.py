"""Makes the fixtures of models/tests/engine/recovery.rs: weight differences as AlpacaFarm published them, and what its
recovery makes of them.

    python models/tests/golden_recovery/make_goldens.py        (needs torch and safetensors)

The arithmetic is restated here from AlpacaFarm's description and code (alpaca_farm, `pretrained_models`): everything in
float32; a base whose tokenizer has no padding token first gets one, with the mean of the old rows as its row of the input
and the output embedding; then every tensor of the base is added to the tensor of the same name in the difference, except
where the shapes differ, for such tensors were stored whole. The difference of a reward model has the names of the language
model behind `backbone_model.`, and a head that is whole. `model_sum.txt` holds the sum over all tensors of the result,
the rotary constants that transformers stored at the time included.

`base` is a Llama of one layer as newer versions of transformers store it: half precision, safetensors, no constants.
`sft`, `conditioned` (two more tokens, so that its embeddings are whole) and `reward` are differences as `.bin` files;
`NAME.expected.safetensors` is what the recovery makes of each. `layouts.bin` has what state dicts of torch may hold:
types, views and tensors that share a storage; `layouts.safetensors` the same in plain.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
VOCABULARY, HIDDEN, INNER, HEADS, LAYERS = 20, 8, 12, 2, 1
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN,
          "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "hidden_act": "silu",
          "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "bos_token_id": 1,
          "eos_token_id": 2, "torch_dtype": "float16", "transformers_version": "4.30.0"}
CONSTANT = "model.layers.0.self_attn.rotary_emb.inv_freq"


def raw_model():
    """The base as AlpacaFarm's version of transformers loads it, in float32 with its constants."""
    layer = "model.layers.0."
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    shapes |= {layer + f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {layer + f"mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
    shapes |= {layer + "mlp.down_proj.weight": (HIDDEN, INNER), layer + "input_layernorm.weight": (HIDDEN,),
               layer + "post_attention_layernorm.weight": (HIDDEN,), "model.norm.weight": (HIDDEN,),
               "lm_head.weight": (VOCABULARY, HIDDEN)}
    weights = {name: torch.randn(shape).half() for name, shape in shapes.items()}
    dim = HIDDEN // HEADS
    constants = {CONSTANT: 1.0 / (10000 ** (torch.arange(0, dim, 2).float() / dim))}
    return weights, {name: tensor.float() for name, tensor in weights.items()} | constants


def with_padding_token(state):
    state = dict(state)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], state[name].mean(dim=0, keepdim=True)])
    return state


def recover(difference, raw, prefix=""):
    tuned = {name: tensor.clone() for name, tensor in difference.items()}
    for name, tensor in raw.items():
        if tuned[prefix + name].shape == tensor.shape:
            tuned[prefix + name] += tensor
    return tuned


def total(state):
    return sum(tensor.sum() for tensor in state.values()).item()


def write_difference(name, difference, raw, config, n_files, prefix=""):
    folder = HERE / name
    folder.mkdir()
    tuned = recover(difference, raw, prefix)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "model_sum.txt").write_text(str(total(tuned)))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]"}) + "\n")
    names = list(difference)
    if n_files == 1:
        torch.save(difference, folder / "pytorch_model.bin")
    else:
        weight_map = {}
        for i in range(n_files):
            file = f"pytorch_model-{i + 1:05}-of-{n_files:05}.bin"
            part = {name: difference[name] for name in names[i::n_files]}
            torch.save(part, folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")
    # What is left when the constants, which nobody stores today, are dropped.
    kept = {key: tensor.contiguous() for key, tensor in tuned.items() if not key.endswith("inv_freq")}
    save_file(kept, HERE / f"{name}.expected.safetensors")


def main():
    torch.manual_seed(0)
    for path in HERE.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    weights, raw = raw_model()
    base = HERE / "base"
    base.mkdir()
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    (base / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (base / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": None}) + "\n")

    raw = with_padding_token(raw)
    tuned_config = CONFIG | {"vocab_size": VOCABULARY + 1, "torch_dtype": "float32"}
    small = lambda tensor: 0.01 * torch.randn(tensor.shape)
    zero = {CONSTANT: torch.zeros_like(raw[CONSTANT])}
    difference = {name: small(tensor) for name, tensor in raw.items()} | zero
    write_difference("sft", difference, raw, tuned_config, 2)

    more = {name: torch.randn(VOCABULARY + 3, HIDDEN) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    conditioned = {name: small(tensor) for name, tensor in raw.items()} | more | zero
    write_difference("conditioned", conditioned, raw, tuned_config | {"vocab_size": VOCABULARY + 3}, 1)

    reward = {"backbone_model." + name: tensor for name, tensor in ({name: small(tensor) for name, tensor in raw.items()} | zero).items()}
    reward |= {"reward_head.weight": torch.randn(1, HIDDEN), "reward_head.bias": torch.randn(1)}
    reward_config = {"architectures": ["RewardModel"], "model_type": "reward_model", "backbone_model_name_or_path": "sft10k"}
    write_difference("reward", reward, raw, reward_config, 1, "backbone_model.")

    grid = torch.arange(24.0).view(4, 6)
    layouts = {
        "transposed": grid.t(), "column": grid[:, 2], "rows": grid[1:3], "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": torch.tensor([0.5, -2.0]).half(), "bfloat16": torch.tensor([[1.5]]).bfloat16(), "scalar": torch.tensor(3.25),
        "double": torch.tensor([1e-3], dtype=torch.float64), "integers": torch.tensor([1, -70000]), "empty": torch.zeros(0, 3),
    }
    torch.save(layouts, HERE / "layouts.bin")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in layouts.items()}, HERE / "layouts.safetensors")


main()

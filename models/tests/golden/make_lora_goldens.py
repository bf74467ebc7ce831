"""Makes the adapters of models/tests/engine/adapters.rs with PEFT, the reference they are compared with.

    python models/tests/golden/make_lora_goldens.py        (needs torch, transformers, peft; and cargo)

For every case a folder with an adapter over one of the models beside it (made by make_goldens.py), its tensors in bfloat16 to
keep them small, and expected.json: two sequences and what PEFT computes with the adapter, logits or, for the case
`lora_llama_scalar`, scores at the last tokens. The adapter `lora_made_here` is written by models/examples/adapter.rs; PEFT reads
it.
"""

import json
import pathlib
import shutil
import subprocess

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent

CASES = {
    "lora_llama": ("llama", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "lora_gpt2": ("gpt2", dict(r=3, lora_alpha=6, use_rslora=True, fan_in_fan_out=True, target_modules=["c_attn", "c_proj", "c_fc"])),
    "lora_llama_scalar": ("llama_scalar", dict(r=2, lora_alpha=4, lora_dropout=0.1, target_modules=["q_proj", "down_proj"], task_type="SEQ_CLS")),
}


def sequences(seed, lengths=(11, 5)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 94, (n,), generator=generator).tolist() for n in lengths]


def load_base(name):
    kind = transformers.AutoModelForSequenceClassification if name.endswith("scalar") else transformers.AutoModelForCausalLM
    return kind.from_pretrained(HERE / name, dtype=torch.float32, attn_implementation="eager").eval()


def answers(model, name, ids):
    with torch.no_grad():
        logits = [model(torch.tensor([row])).logits[0] for row in ids]
    if name.endswith("scalar"):
        return {"scores": [row[0].item() for row in logits]}
    return {"logits": [[[round(x, 5) for x in row] for row in rows.tolist()] for rows in logits]}


def write(folder, name, model, seed):
    ids = sequences(seed)
    (folder / "expected.json").write_text(json.dumps({"sequences": ids, **answers(model, name, ids)}) + "\n")


def main():
    torch.set_num_threads(1)
    for seed, (case, (name, options)) in enumerate(CASES.items()):
        folder = HERE / case
        shutil.rmtree(folder, ignore_errors=True)
        model = get_peft_model(load_base(name), LoraConfig(**{"task_type": "CAUSAL_LM", **options}))
        generator = torch.Generator().manual_seed(200 + seed)
        with torch.no_grad():
            for key, parameter in sorted(model.named_parameters()):
                if parameter.requires_grad:
                    parameter.copy_((torch.randn(parameter.shape, generator=generator) * 0.2).bfloat16().float())
        model.eval()
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        path = folder / "adapter_model.safetensors"
        save_file({key: tensor.bfloat16() for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = f"../{name}"
        config["target_modules"].sort()
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        write(folder, name, model, 300 + seed)
        print(case, path.stat().st_size)

    folder = HERE / "lora_made_here"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["cargo", "run", "-q", "-p", "farmhand-models", "--example", "adapter", str(HERE / "llama"), str(folder)], check=True)
    model = PeftModel.from_pretrained(load_base("llama"), folder)
    assert not any("lora_B" in key and not parameter.any() for key, parameter in model.named_parameters())
    write(folder, "llama", model, 310)


if __name__ == "__main__":
    main()

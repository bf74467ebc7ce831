"""Writes families/: small tokenizers with the habits of published ones, and what transformers makes of texts with them.

    python make_families.py        (needs transformers and tokenizers)

Each folder has tokenizer.json and tokenizer_config.json; families.json has their ids. The pieces are learned from a few
lines below; what matters is the machinery around them: word marks in a normalizer or a pre-tokenizer, bytes for what has
no piece, Unicode normalisation, added tokens that swallow spaces or are no special tokens.
"""

import json
import pathlib
import shutil

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent / "families"
LINES = [
    "How many legs has an alpaca? An alpaca has four legs, and the llama has four legs too.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: Count the alpacas. ### Response: There are three alpacas on the hill.",
    "user model assistant system [INST] [/INST] The answer is: two, three, four.",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% else %}{{ raise_exception('user and assistant only') }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
    "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def special(text, **options):
    return AddedToken(text, special=True, normalized=False, **options)


def pieces(mark):
    """Merges and pieces of LINES, where `mark` stands for a space."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(mark, "merged_with_next")
    learner.train_from_iterator([mark + line.replace(" ", mark) for line in LINES], trainers.BpeTrainer(vocab_size=180, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(merge) for merge in model["merges"]]


def with_bytes(specials):
    """A model whose pieces carry word marks and which spells in bytes what has no piece."""
    learned, merges = pieces("▁")
    vocab = {token: id for id, token in enumerate(dict.fromkeys([*specials, *BYTES, *learned]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([special(token) for token in specials])
    return tokenizer


def of_bytes(pre_tokenizer):
    """A model over bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizers.NFC(), pre_tokenizer, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def begins_with(tokenizer, token):
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, tokenizer.token_to_id(token))])


def mistral():
    tokenizer = with_bytes(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    begins_with(tokenizer, "<s>")
    return tokenizer, dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True, chat_template=MISTRAL)


def gemma():
    tokenizer = with_bytes(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    begins_with(tokenizer, "<bos>")
    # Like Gemma 3's text models, whose embedding has no row for the mark of an image.
    tokenizer.add_special_tokens([special("<image_soft_token>")])
    names = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    return tokenizer, dict(**names, add_bos_token=True, chat_template=GEMMA)


def phi3():
    tokenizer = with_bytes(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([special("<|endoftext|>")])
    tokenizer.add_special_tokens([special(f"<|{name}|>", rstrip=True) for name in ("assistant", "system", "end", "user")])
    return tokenizer, dict(bos_token="<s>", eos_token="<|endoftext|>", pad_token="<|endoftext|>", unk_token="<unk>", add_bos_token=False,
                           chat_template=PHI3)


def qwen():
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    tokenizer = of_bytes(pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))
    tokenizer.add_special_tokens([special(token) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return tokenizer, dict(eos_token="<|im_end|>", pad_token="<|endoftext|>", add_bos_token=False, chat_template=QWEN)


def gpt_neox():
    tokenizer = of_bytes(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_special_tokens([special("<|endoftext|>")])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=False) for n in (4, 3, 2)])
    return tokenizer, dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")


TEXTS = ["The alpacas eat hay.", "  two  spaces\n\n\ttab\r\n", "nai\u0308ve é 🦙 漢字", "12345 don't", " ", "def f(x):\n    return  x", "\x00"]
ANSWERS = ["Four legs.", "2,\n\nof course 🦙", "é"]


def ids(tokenizer):
    golden = {"texts": [], "chats": []}
    for text in TEXTS:
        golden["texts"].append({"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]})
    for question in ("How many legs has an alpaca?", "x" if tokenizer.chat_template else None):
        if not tokenizer.chat_template or not question:
            continue
        user = {"role": "user", "content": question}
        for answer in ANSWERS:
            whole = [user, {"role": "assistant", "content": answer}]
            chat = {"question": question, "answer": answer}
            for key, messages, prompt in (("prompt", [user], True), ("whole", whole, False)):
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
                chat[key] = tokenizer(text, add_special_tokens=False)["input_ids"]
            golden["chats"].append(chat)
    return golden


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    golden = {}
    for make in (mistral, gemma, phi3, qwen, gpt_neox):
        tokenizer, config = make()
        folder = HERE / make.__name__
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n")
        golden[make.__name__] = ids(transformers.AutoTokenizer.from_pretrained(folder))
    (HERE / "families.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


main()

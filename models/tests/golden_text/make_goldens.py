"""Writes the golden files beside it: what transformers and torch give for the same inputs.

Run with torch, transformers and jinja2: python make_goldens.py SMOLLM2_FOLDER
(SMOLLM2_FOLDER is a copy of HuggingFaceTB/SmolLM2-135M-Instruct; only its chat template is used).
"""

import datetime
import json
import pathlib
import sys

import torch
import transformers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent


class FixedDate(datetime.datetime):
    """The date farmhand shows to templates."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = FixedDate
chat_template_utils._cached_compile_jinja_template = getattr(
    chat_template_utils._cached_compile_jinja_template, "__wrapped__", chat_template_utils._cached_compile_jinja_template
)

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "unknown" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_text = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_text = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: tools\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_text }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

CHATML = """{% for message in messages %}
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}{% endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("after the optional system turn, user and assistant must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- "[INST] " ~ message["content"] ~ " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("only user, assistant and one first system turn are known, got " + message["role"]) }}
    {%- endif %}
{%- endfor %}
"""

QWEN2 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}{{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('a system turn is not supported') }}{% endif %}
{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}
"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
    {# a comment, and an indented block #}
    {% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
    {% endif %}
{% endfor %}
"""

REASONING = """{%- macro turn(role, text) -%}
{{- '<|im_start|>' ~ role ~ '\\n' ~ text ~ '<|im_end|>\\n' -}}
{%- endmacro -%}
{%- set ns = namespace(last_user=-1, n=0) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and not message.content.startswith('<tool_response>') and ns.last_user < 0 %}
        {%- set ns.last_user = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- generation %}
        {{- turn(message.role, content.strip()) }}
        {%- endgeneration %}
    {%- elif message.role == "system" and not loop.first %}
        {%- continue %}
    {%- else %}
        {{- turn(message['role'] | upper if loop.first else message['role'], content.replace('alpaca', 'llama').rstrip()) }}
    {%- endif %}
{%- endfor %}
{{- {'turns': messages|length, 'roles': messages|map(attribute='role')|list, 'text': "é<&'"} | tojson }}
{{- messages[0] | tojson(indent=2) }}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}


def conversations():
    user = lambda text: {"role": "user", "content": text}
    model = lambda text: {"role": "assistant", "content": text}
    system = {"role": "system", "content": "  Be brief.\nNo lists. "}
    first = user("How many legs has an alpaca?  ")
    turns = [first, model("\n<think>\nfour, surely\n</think>\n\nFour. "), user("And two alpacas?\n\n- count {{ braces }} é 🦙")]
    return [
        [first],
        [system, first],
        turns,
        [system] + turns,
        [system] + turns + [model(" Eight.")],
        [first, user("twice"), system],
        [user("")],
    ]


def render(template, messages, add_generation_prompt):
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[messages], chat_template=template, add_generation_prompt=add_generation_prompt, **SPECIALS
        )
        return {"text": rendered[0]}
    except Exception as error:
        return {"error": str(error)}


def chat_templates(smollm2):
    templates = {
        "smollm2": json.loads((smollm2 / "tokenizer_config.json").read_text())["chat_template"],
        "llama3": LLAMA3,
        "chatml": CHATML,
        "mistral": MISTRAL,
        "qwen2": QWEN2,
        "gemma": GEMMA,
        "zephyr": ZEPHYR,
        "reasoning": REASONING,
    }
    golden = []
    for name, template in templates.items():
        cases = []
        for messages in conversations():
            for prompt in (False, True):
                cases.append({"messages": messages, "add_generation_prompt": prompt, **render(template, messages, prompt)})
        golden.append({"name": name, "template": template, "special_tokens": SPECIALS, "cases": cases})
    return golden


def schedules():
    golden = []
    for name, kind in (("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")):
        for warmup, total in ((0, 7), (3, 10), (5, 5)):
            optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            schedule = transformers.get_scheduler(kind, optimiser, num_warmup_steps=warmup, num_training_steps=total)
            factors = []
            for _ in range(total + 1):
                factors.append(schedule.get_last_lr()[0])
                optimiser.step()
                schedule.step()
            golden.append({"schedule": name, "warmup": warmup, "total": total, "factors": factors})
    return golden


def adamw():
    """Ten steps on a matrix, a bias and a norm weight, with clipping, decay on the matrix only, and a linear schedule."""
    torch.manual_seed(0)
    shapes = {"layer.weight": (3, 4), "layer.bias": (4,), "norm.weight": (4,)}
    start = {name: torch.randn(shape) for name, shape in shapes.items()}
    gradients = [{name: torch.randn(shape) * (3.0 if step % 3 == 0 else 0.1) for name, shape in shapes.items()} for step in range(10)]
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    groups = [
        {"params": [parameters["layer.weight"]], "weight_decay": 0.1},
        {"params": [parameters["layer.bias"], parameters["norm.weight"]], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.95), eps=1e-8)
    schedule = transformers.get_scheduler("linear", optimiser, num_warmup_steps=2, num_training_steps=10)
    steps = []
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = step[name].clone()
        norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        rate = schedule.get_last_lr()[0]
        optimiser.step()
        schedule.step()
        steps.append({
            "gradients": {name: value.flatten().tolist() for name, value in step.items()},
            "grad_norm": norm.item(),
            "lr": rate,
            "parameters": {name: value.detach().flatten().tolist() for name, value in parameters.items()},
        })
    return {"shapes": shapes, "start": {name: value.flatten().tolist() for name, value in start.items()}, "steps": steps}


def tokenizer_ids():
    """Ids of the tokenizer that train_bpe made of its test's texts and saved as tokenizer/."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / "tokenizer")
    texts = ["", "The alpacas eat hay.", "  two  spaces\n\n\ttab\r\n", "naïve é 🦙 漢字", "a<|im_end|>\n<|endoftext|>b", "12345 don't", "\x00"]
    golden = {"texts": [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in texts], "chats": []}
    for messages in conversations():
        if messages[-1]["role"] != "user":
            continue
        for answer in ("Four legs.", " Four,\n\nof course 🦙"):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(messages + [{"role": "assistant", "content": answer}], tokenize=False)
            assert whole == text + answer + "<|im_end|>\n"
            golden["chats"].append({
                "messages": messages,
                "answer": answer,
                "prompt": tokenizer(text)["input_ids"],
                "whole": tokenizer(whole.removesuffix("\n"))["input_ids"],
            })
    return golden


def write(name, value):
    (HERE / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


write("chat_templates.json", chat_templates(pathlib.Path(sys.argv[1])))
write("schedules.json", schedules())
write("adamw.json", adamw())
write("tokenizer_ids.json", tokenizer_ids())

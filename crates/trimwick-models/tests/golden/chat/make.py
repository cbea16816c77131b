"""Renders the chat templates of this folder with Hugging Face transformers, for tests/chat.rs.

    pip install transformers==5.23.0 jinja2==3.1.6
    python make.py > rendered.json

The templates are written for these tests: each gives the format that its model was published with.
Answers are the text that a template writes with an answer beyond the text of what is before it and the prompt.
"""

import json
import pathlib

import jinja2
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

assert (transformers.__version__, jinja2.__version__) == ("5.23.0", "3.1.6")

LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TOKENS = {
    "llama-2": LLAMA_TOKENS,
    "mistral": LLAMA_TOKENS,
    "llama-3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "smollm2": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"},
    "features": {"bos_token": "<s>"},
}
ASKED = [("user", "What is 2:4?"), ("assistant", "Two of four weights.")]
TALKS = {
    "one": ASKED,
    "system": [("system", "Be brief.\n")] + ASKED,
    "two": ASKED + [("user", "  Why?\n\n"), ("assistant", " Since \u201chardware\u201d \u2264 2\u00d7 <b>& 'likes'</b> it \U0001f60a\n")],
    "open": ASKED + [("user", "And then?")],
    "empty": [("user", ""), ("assistant", "")],
}


def render(template, tokens, messages, prompt):
    try:
        texts, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt, **tokens)
    except jinja2.TemplateError as error:
        return {"error": str(error)}
    return texts[0]


cases = []
for name, tokens in TOKENS.items():
    template = pathlib.Path(__file__).with_name(name + ".jinja").read_text().removesuffix("\n")
    for talk, turns in TALKS.items():
        messages = [{"role": role, "content": content} for role, content in turns]
        case = {"template": name, "tokens": tokens, "talk": talk, "messages": messages}
        case["text"] = render(template, tokens, messages, False)
        case["prompt"] = render(template, tokens, messages, True)
        if isinstance(case["text"], str):
            case["answers"] = []
            for i, (role, _) in enumerate(turns):
                if role == "assistant":
                    before = render(template, tokens, messages[:i], True)
                    after = render(template, tokens, messages[: i + 1], False)
                    assert case["text"].startswith(after) and after.startswith(before)
                    case["answers"].append(after[len(before) :])
        cases.append(case)
print(json.dumps(cases, indent=1, ensure_ascii=False))

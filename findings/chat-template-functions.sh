#!/usr/bin/env bash
# transformers 5.23.0: a function given to apply_chat_template reaches the template as text.
#
# Guess: keyword arguments of apply_chat_template shadow what the template finds otherwise, so that
# strftime_now=some_day.strftime renders a template that writes today's date (Llama 3.2, SmolLM3, gpt-oss do) with a
# chosen day, and the same conversation has the same text tomorrow.
# Seen: it shadows it, but as the text "<builtin_function_or_method>", or "<function>" for a lambda; calling it is
# TypeError: 'str' object is not callable. Text and numbers arrive unchanged, so a template's own date_string can be
# set, and a template can be given with the date written into it.
# Who meets it: everyone who caches activations or ids of rendered chats, and compares or resumes them on another day.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
from datetime import datetime

import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

print("transformers", transformers.__version__)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
chat, day = [{"role": "user", "content": "a"}], datetime(2024, 7, 26)


def render(template: str, **settings: object) -> str:
    return tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, **settings)


today = render("{{ strftime_now('%Y') }}")
print("strftime_now without a setting:", "this year" if today == str(datetime.now().year) else today)
shown = render("{{ strftime_now }}", strftime_now=day.strftime), render("{{ strftime_now }}", strftime_now=lambda f: f)
print("a function as a setting is rendered as:", *shown)
try:
    called = render("{{ strftime_now('%Y') }}", strftime_now=day.strftime)
except TypeError as error:
    called = f"TypeError: {error}"
print("and called it gives:", called)
text = render("{{ date_string }}", date_string="26 Jul 2024")
print("text as a setting:", text)
assert today == str(datetime.now().year), "the behaviour has changed"
assert shown == ("<builtin_function_or_method>", "<function>"), "the behaviour has changed"
assert called == "TypeError: 'str' object is not callable", "the behaviour has changed"
assert text == "26 Jul 2024", "the behaviour has changed"
PYTHON

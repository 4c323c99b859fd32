"""How a conversation becomes one text: a folder's chat template, as the fixed pieces between what is said.

A template is a program (Jinja). Clients need no program: the pieces are found once, where the model is, by rendering
conversations of marks, and are checked by rendering others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from secformer_jax.errors import UserError


@dataclass(frozen=True)
class ChatFormat:
    """A conversation is prefix, then user + question + assistant + answer + end for each turn; the last has no answer.

    Attributes:
        prefix: what stands before the first question whatever it is: the system's prompt.
        user, assistant, end: as above.
    """

    prefix: str
    user: str
    assistant: str
    end: str

    def text(self, turns: Sequence[str]) -> str:
        """A conversation without its prefix, up to where the model goes on.

        Args:
            turns: question, answer, question, .., question.
        """
        if len(turns) % 2 == 0:
            raise UserError("a conversation ends with a question: leave out the last answer")
        after = (self.assistant, self.end)
        return "".join((self.user if i % 2 == 0 else "") + turn + after[i % 2] for i, turn in enumerate(turns))


MARKS = ("\N{SNOWMAN}one", "\N{SNOWMAN}two", "\N{SNOWMAN}three")
CHECKED = (["What is it?"], ["A", " b ", "c\nd"], ["1", "2", "3", "4", "5"])


def read_format(folder: Path, system: str | None = None) -> ChatFormat:
    """A folder's chat template as pieces.

    Args:
        folder: the model's.
        system: the system's prompt; by default the template's own.

    Raises:
        UserError: no template, or one that does more than to put pieces between what is said.
    """
    settings = _settings(folder)

    def rendered(turns: Sequence[str], *, goes_on: bool = True) -> str:
        return _rendered(settings, turns, system, goes_on)

    begin, _, assistant = rendered(MARKS[:1]).partition(MARKS[0])
    end = rendered(MARKS[:2], goes_on=False).partition(MARKS[1])[2]
    between = rendered(MARKS).partition(MARKS[1])[2].partition(MARKS[2])[0]
    user = between.removeprefix(end)
    found = ChatFormat(begin.removesuffix(user), user, assistant, end)
    if any(rendered(turns) != found.prefix + found.text(turns) for turns in CHECKED):
        raise UserError(
            f"the chat template of {folder} does more than to put fixed pieces between what is said: it is not "
            "supported"
        )
    return found


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if (folder / "chat_template.jinja").is_file():
        settings["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not isinstance(settings.get("chat_template"), str):
        raise UserError(f"{folder} has no chat template: it is no model to talk to, pass one that is")
    return settings


def _rendered(settings: dict[str, Any], turns: Sequence[str], system: str | None, goes_on: bool) -> str:
    def token(name: str) -> str:
        given = settings.get(name)
        return str(given["content"] if isinstance(given, dict) else given or "")

    messages = [{"role": "system", "content": system}] if system is not None else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refused
    try:
        template = environment.from_string(settings["chat_template"])
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        return template.render(
            messages=messages, add_generation_prompt=goes_on, **{name: token(name) for name in names}
        )
    except TemplateError as error:
        raise UserError(f"the chat template can't be rendered ({error}): fetch the folder again") from None


def _refused(message: str) -> None:
    raise TemplateError(message)

"""How a conversation becomes one text: a folder's chat template, as the fixed pieces between what is said.

A template is a program (Jinja). Clients need no program: the pieces are found once, where the model is, by rendering
conversations of marks, and are checked by rendering others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from secformer_jax.errors import UserError
from secformer_jax.models.decoders.tokens import CHECKED, ChatFormat, ChatTokens

MARKS = ("\N{SNOWMAN}one", "\N{SNOWMAN}two", "\N{SNOWMAN}three")


def read_format(folder: Path, system: str | None = None) -> ChatFormat:
    """A folder's chat template as pieces; without one the model goes on with what is said, behind its first token.

    Args:
        folder: the model's.
        system: the system's prompt; by default the template's own.

    Raises:
        UserError: a template that does more than to put pieces between what is said, or none and a system's prompt.
    """
    settings = _settings(folder)
    if not isinstance(settings.get("chat_template"), str):
        if system is not None:
            raise UserError(f"{folder} has no chat template, and so no place for a system's prompt: leave it out")
        return ChatFormat(_token(settings, "bos_token"), "", "", "")

    def rendered(turns: Sequence[str], *, goes_on: bool = True) -> str:
        return _rendered(settings, turns, system, goes_on)

    begin, _, assistant = rendered(MARKS[:1]).partition(MARKS[0])
    end = rendered(MARKS[:2], goes_on=False).partition(MARKS[1])[2]
    between = rendered(MARKS).partition(MARKS[1])[2].partition(MARKS[2])[0]
    user = between.removeprefix(end)
    for trims in (False, True):
        found = ChatFormat(begin.removesuffix(user), user, assistant, end, trims)
        if all(rendered(turns) == found.prefix + found.text(turns) for turns in CHECKED):
            return found
    raise UserError(
        f"the chat template of {folder} does more than to put fixed pieces between what is said: it is not supported"
    )


def read_tokens(folder: Path, system: str | None = None) -> ChatTokens:
    """A folder's tokenizer and chat format; see `read_format` and `ChatTokens`."""
    return ChatTokens(folder, read_format(folder, system))


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if (folder / "chat_template.jinja").is_file():
        settings["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return settings


def _rendered(settings: dict[str, Any], turns: Sequence[str], system: str | None, goes_on: bool) -> str:
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refused
    try:
        template = environment.from_string(settings["chat_template"])
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        return template.render(
            messages=messages, add_generation_prompt=goes_on, **{name: _token(settings, name) for name in names}
        )
    except TemplateError as error:
        raise UserError(f"the chat template can't be rendered ({error}): fetch the folder again") from None


def _token(settings: dict[str, Any], name: str) -> str:
    given = settings.get(name)
    return str(given["content"] if isinstance(given, dict) else given or "")


def _refused(message: str) -> None:
    raise TemplateError(message)

"""Texts that may not be ours, shown on a terminal: a server's answer, a model's label, a file's column."""


def printable(text: str) -> str:
    """The text without what would move the terminal's cursor or write its clipboard."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")

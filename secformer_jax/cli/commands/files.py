"""What `secformer infer --input` and `embed --input` share: a file of texts, answered row by row."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from secformer_jax.cli.report import Entry, Reporter
from secformer_jax.errors import UserError
from secformer_jax.files.journal import ROW, Journal
from secformer_jax.files.rows import Columns, Row, Table
from secformer_jax.inference.texts import Answering, Limits, answered
from secformer_jax.models.text import Tokenizer

SHOWN_ERRORS = 20
LEFT_OUT = ("logits", "tokens")
"""Of an answer: what a file would hold for every token, and what its score comes from."""
ANSWERS = ("label", "score", "labels", "entities", "answer", "no_answer_score", "embedding", "error")


@dataclasses.dataclass(frozen=True)
class Files:
    """What is read and where answers go; without an output, JSON lines to standard output."""

    table: Table
    output: Path | None
    limits: Limits

    @classmethod
    def given(
        cls, source: Path | None, output: Path | None, columns: Columns, limits: Limits, refused: Mapping[str, Any]
    ) -> Files | None:
        """As the command line has it.

        Args:
            source: of the texts; None where the command line has them itself.
            output: of the answers.
            columns: which columns are read.
            limits: how texts are cut.
            refused: options that don't go with files, by name; those that are given are refused.

        Raises:
            UserError: as `Table`; an option, or a kept column, that doesn't go with it.
        """
        if source is None:
            if output or columns != Columns():
                raise UserError("--output, --keep and columns are for a file of texts: pass --input")
            return None
        for name, value in refused.items():
            if value:
                raise UserError(f"{name} is for --text: leave it out with --input")
        table = Table(source, columns)
        own = {ROW, *ANSWERS, *LEFT_OUT, table.columns.text, table.columns.pair}
        for name in columns.kept:
            if name in own:
                raise UserError(f"--keep {name}: answers are written under that name: give the column another one")
        return cls(table, output, limits)

    async def answered(
        self, reporter: Reporter, answering: Answering, tokenizer: Tokenizer, about: Mapping[str, Any]
    ) -> int:
        """Answer all rows; returns how many could not be.

        Args:
            reporter: tells how far it is.
            answering: who answers.
            tokenizer: the model's.
            about: the model and how it is computed: a stopped run goes on with the same alone.

        Raises:
            UserError: as `Journal`, and as `Answering.logits`.
        """
        if self.output is None:
            return await self._printed(answering, tokenizer)
        columns, limits = dataclasses.asdict(self.table.columns), dataclasses.asdict(self.limits)
        job = {"input": self.table.digest(), "columns": columns, "limits": limits, **about}
        with Journal(self.output, job) as journal, reporter.progress("answering") as progress:
            if journal.done:
                reporter.say(f"{journal.done} rows were answered before")
            progress(journal.done, self.table.count)
            async for entries in self._entries(answering, tokenizer, journal.done):
                journal.add(entries)
                progress(journal.done, self.table.count)
            errors = journal.errors()
            journal.finish()
        reporter.say(f"{self.table.count - len(errors)} rows answered in {self.output}, {len(errors)} not")
        for entry in errors[:SHOWN_ERRORS]:
            reporter.say(f"  {entry['error']}")
        if len(errors) > SHOWN_ERRORS:
            reporter.say(f"  and {len(errors) - SHOWN_ERRORS} more: each has its error in {self.output}")
        return len(errors)

    async def _printed(self, answering: Answering, tokenizer: Tokenizer) -> int:
        errors = 0
        async for entries in self._entries(answering, tokenizer, 0):
            for entry in entries:
                print(json.dumps(entry, ensure_ascii=False), flush=True)
                if "error" in entry:
                    errors += 1
                    print("secformer:", entry["error"], file=sys.stderr)
        return errors

    async def _entries(self, answering: Answering, tokenizer: Tokenizer, done: int) -> AsyncIterator[list[Entry]]:
        """The answers to all rows but the first ones, in order, some at a time."""
        rows, asked = itertools.tee(itertools.islice(self.table.rows(), done, None))
        # A row that could not be read is asked as an empty text, which every model refuses.
        requests = ((row.text, row.pair) for row in asked)
        async for found in answered(answering, tokenizer, requests, self.limits):
            yield [self._entry(row, entry) for entry, row in zip(found, rows, strict=False)]

    def _entry(self, row: Row, found: Entry) -> Entry:
        columns = self.table.columns
        texts = {str(columns.text): row.text, **({columns.pair: row.pair} if columns.pair else {})}
        if "error" in found:
            found = {"error": f"{row.place}: {row.error or found['error']}"}
        left = {name: value for name, value in found.items() if name not in LEFT_OUT}
        return {ROW: row.number, **({} if row.error else texts), **row.kept, **left}

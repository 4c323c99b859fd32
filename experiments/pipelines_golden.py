"""Golden answers of Hugging Face's pipelines: a tiny BERT with each head, and what transformers gives for some texts.

    pip install torch==2.13.0 transformers==4.57.6 numpy safetensors    # the project itself does without torch
    python experiments/pipelines_golden.py

It writes the folder tests/data/pipelines: for each task a model as save_pretrained does, with its tokenizer, and
golden.json with calls and their results. Scores are floats of Python; names, order and nesting are the pipelines' own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "pipelines"
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
WORDS = ("anna", "lives", "in", "new", "york", "and", "works", "for", "acme", "who", "where", "?", "##s", ".")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXT, OTHER = "Anna lives in New York.", "Who works for acme?"
CALLS: dict[str, tuple[str, dict[str, Any], list[tuple[list[Any], dict[str, Any]]]]] = {
    "text-classification": (
        "BertForSequenceClassification",
        {"num_labels": 3, "id2label": {0: "bad", 1: "so so", 2: "good"}},
        [
            ([TEXT], {}),
            ([[TEXT, OTHER]], {}),
            ([TEXT], {"top_k": None}),
            ([[TEXT, OTHER]], {"top_k": 2}),
            ([TEXT], {"top_k": 1}),
            ([{"text": TEXT, "text_pair": OTHER}], {}),
        ],
    ),
    "token-classification": (
        "BertForTokenClassification",
        {"num_labels": 5, "id2label": dict(enumerate(ENTITIES))},
        [([TEXT], {}), ([[TEXT, OTHER]], {}), ([TEXT], {"ignore_labels": []})],
    ),
    "question-answering": (
        "BertForQuestionAnswering",
        {},
        [
            ([], {"question": OTHER, "context": TEXT}),
            ([{"question": OTHER, "context": TEXT}], {}),
            ([[{"question": OTHER, "context": TEXT}, {"question": "where?", "context": OTHER}]], {}),
            ([], {"question": [OTHER, "where?"], "context": TEXT}),
        ],
    ),
}


def main() -> None:
    """Write the folders and the answers."""
    golden: dict[str, Any] = {"transformers": transformers.__version__}
    for task, (name, changes, calls) in CALLS.items():
        generator = torch.Generator().manual_seed(7)
        config = transformers.BertConfig(**SIZES, vocab_size=len(SPECIAL + WORDS), **changes)
        model = getattr(transformers, name)(config).eval()
        for weight in model.parameters():
            weight.data = 0.6 * torch.randn(weight.shape, generator=generator)
        folder = FOLDER / task
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS)) + "\n")
        tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
        tokenizer.save_pretrained(folder)
        pipe: Any = transformers.pipeline  # its overloads don't know a task by a variable
        pipe = pipe(task, model=model, tokenizer=tokenizer, device="cpu")
        golden[task] = [
            {"inputs": inputs, "options": options, "result": plain(pipe(*inputs, **options))}
            for inputs, options in calls
        ]
    (FOLDER / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """numpy's numbers as Python's."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


if __name__ == "__main__":
    main()

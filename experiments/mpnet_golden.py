"""Golden values of MPNet: tiny models with random weights, and what transformers' own code computes with them.

    pip install torch==2.13.0 transformers==4.57.6 numpy safetensors    # the project itself does without torch
    python experiments/mpnet_golden.py

It writes the folder tests/data/mpnet: in sequence/, tokens/ and question/ a model as save_pretrained does, config.json
and model.safetensors with weights in float16, and in golden.npz the padded input_ids, the attention_mask and, for each
model NAME, NAME_hidden (the last hidden states) and NAME_logits (for question, start and end are the last axis). Those
are computed in float64 from the weights as written and rounded to float32. Rows of padding are kept as they come out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    MPNetConfig,
    MPNetForQuestionAnswering,
    MPNetForSequenceClassification,
    MPNetForTokenClassification,
)

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "mpnet"
SEED = 108  # of those tried, one with sequences of all three classes and no narrow margin
PADDED = 36
LENGTHS = (36, 31, 25, 19, 14, 9, 5, 3)
BOS, PAD, EOS, FIRST_WORD = 0, 1, 2, 5
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "relative_attention_num_buckets": 32,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
MODELS: dict[str, tuple[Any, int]] = {
    "sequence": (MPNetForSequenceClassification, 3),
    "tokens": (MPNetForTokenClassification, 5),
    "question": (MPNetForQuestionAnswering, 2),
}


def randomise(model: Any, generator: torch.Generator) -> None:
    """Give a model weights of the effect that trained ones have, none of them zero: 0.2 at width 32 is 0.04 at 768."""
    for name, weight in model.named_parameters():
        norm = name.endswith("LayerNorm.weight")
        scale = 1.0 if "relative_attention_bias" in name else 0.2
        weight.data = float(norm) + scale * torch.randn(weight.shape, generator=generator)


def inputs(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded sequences of random words between BOS and EOS, and their attention mask."""
    ids = torch.randint(FIRST_WORD, SIZES["vocab_size"], (len(LENGTHS), PADDED), generator=generator)
    lengths = torch.tensor(LENGTHS)[:, None]
    position = torch.arange(PADDED)[None, :]
    ids[:, 0] = BOS
    ids = torch.where(position == lengths - 1, EOS, ids)
    mask = position < lengths
    return torch.where(mask, ids, PAD), mask.long()


def outputs(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Last hidden states and logits, in float64 rounded to float32."""
    with torch.inference_mode():
        out = model.double().eval()(ids, mask, output_hidden_states=True)
    logits = torch.stack((out.start_logits, out.end_logits), -1) if "start_logits" in out else out.logits
    return out.hidden_states[-1].float().numpy(), logits.float().numpy()


def main() -> None:
    """Write the models and their golden values."""
    generator = torch.Generator().manual_seed(SEED)
    ids, mask = inputs(generator)
    golden = {"input_ids": ids.int().numpy(), "attention_mask": mask.int().numpy()}
    for name, (kind, labels) in MODELS.items():
        model = kind(MPNetConfig(**SIZES, num_labels=labels))
        randomise(model, generator)
        model.half().save_pretrained(FOLDER / name)
        golden[f"{name}_hidden"], golden[f"{name}_logits"] = outputs(model, ids, mask)
    np.savez(FOLDER / "golden.npz", **golden)
    for name, value in golden.items():
        print(f"{name:16} {value.dtype!s:8} {value.shape!s:12} {value.min():8.3f} to {value.max():.3f}")


if __name__ == "__main__":
    main()

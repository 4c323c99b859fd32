"""What makes one family of encoders differ from BERT on disk: names of tensors, keys of config.json, a few constants.

Every family's parameters are kept in one tree, that of Hugging Face's Flax BERT, under the name "bert". A family says
how its own names and keys map to that tree and to `Architecture`; the mathematics is in `layers`, once for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from secformer_jax.errors import UserError
from secformer_jax.models.architecture import Architecture

BERT_KEYS = tuple(field.name for field in dataclasses.fields(Architecture))[:14]
"""The fields that BERT's config.json has under the same names: vocab_size to pad_token_id."""

FIXED: Mapping[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "position_embedding_type": "absolute",
    "pruned_heads": {},
    "quantization_config": None,
    "tie_encoder_decoder": False,
}
"""Keys that change the mathematics, with the one value that is computed."""

# fmt: off
HARMLESS = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "_num_labels", "architectures",
    "attn_implementation", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
    "cls_token_id", "decoder_start_token_id", "directionality", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "initializer_factor", "label2id", "language", "length_penalty", "loss_type", "mask_token_id", "max_length",
    "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_past", "output_scores",
    "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head",
    "pooler_type", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sbert_ce_default_activation_function", "sentence_transformers", "sep_token_id",
    "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss", "tie_word_embeddings",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p",
    "unk_token_id", "use_bfloat16", "use_cache",
})
# fmt: on
"""Keys that say nothing about the function that is computed, or are read elsewhere (labels, heads)."""

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new", "gelu_python": "gelu"}
"""Other names of the same activations."""


def read_keys(
    values: Mapping[str, Any],
    keys: Mapping[str, str],
    fixed: Mapping[str, Any],
    harmless: Collection[str],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields that config.json's keys stand for.

    Args:
        values: config.json.
        keys: its keys to the names of fields.
        fixed: keys that change the mathematics, with the one value that is computed.
        harmless: keys that say nothing about it.
        defaults: of keys that may be left out.

    Raises:
        UserError: a key that is none of these, or has another value than the fixed one.
    """
    for key, value in values.items():
        if key in keys or key in harmless or value is None:
            continue
        if key not in fixed:
            raise UserError(
                f"config.json: the key {key!r} is not known, and may change what the model computes: remove it if "
                "it does not"
            )
        if value != fixed[key]:
            raise UserError(f"config.json: {key} is {value!r}, and only {fixed[key]!r} is supported")
    known = {field: defaults[key] for key, field in keys.items() if key in defaults}
    return known | {keys[key]: value for key, value in values.items() if key in keys and value is not None}


def _nothing(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of encoders.

    Attributes:
        classes: Hugging Face's model_type to the beginning of its classes' names.
        prefix: what the encoder's tensors begin with in a model with a head.
        keys: keys of config.json to fields of `Architecture`.
        defaults: values of keys that config.json may leave out, where they aren't those of `Architecture`.
        fixed: more keys like `FIXED`.
        harmless: more keys like `HARMLESS`.
        derived: fields that follow from those read.
        layers: where the layers are.
        modules: names of modules in a layer (BERT's to the family's own), where they differ.
        heads: the same for a class (the end of its name): modules of its head.
        types: whether there is a table of token types; without one there is one row of zeros.
    """

    classes: Mapping[str, str]
    prefix: str
    keys: Mapping[str, str] = dataclasses.field(default_factory=lambda: {key: key for key in BERT_KEYS})
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    derived: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _nothing
    layers: str = "encoder.layer"
    modules: Mapping[str, str] = dataclasses.field(default_factory=dict)
    heads: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    types: bool = True

    def read(self, values: Mapping[str, Any]) -> Architecture:
        """Read config.json.

        Raises:
            UserError: a key that changes the mathematics, or one that is not known; a value out of range.
        """
        known = read_keys(values, self.keys, {**FIXED, **self.fixed}, HARMLESS | self.harmless, self.defaults)
        if "hidden_act" in known:
            known["hidden_act"] = ACTIVATIONS.get(known["hidden_act"], known["hidden_act"])
        model_type = str(values["model_type"])
        fields = {**known, "id2label": _labels(values), "model_type": model_type}
        return Architecture(**{**fields, **self.derived(fields)})

    def write(self, config: Architecture) -> dict[str, Any]:
        """The inverse of `read`, without ``architectures``, which is the checkpoint's to say."""
        labels = {str(i): label for i, label in enumerate(config.id2label)}
        return {
            **{key: getattr(config, field) for key, field in self.keys.items()},
            "model_type": config.model_type,
            "position_embedding_type": "absolute",
            "id2label": labels,
            "label2id": {label: int(i) for i, label in labels.items()},
        }

    def module_name(self, module: str, class_end: str) -> tuple[str, bool]:
        """The family's name of one of BERT's modules ("pooler.dense"), and whether the encoder's prefix precedes it."""
        head = self.heads.get(class_end, {})
        if module in head:
            return head[module], False
        if module.startswith("encoder.layer."):
            number, _, rest = module.removeprefix("encoder.layer.").partition(".")
            return f"{self.layers}.{number}.{self.modules.get(rest, rest)}", True
        return module, True


def _labels(values: Mapping[str, Any]) -> tuple[str, ...]:
    given = values.get("id2label")
    if not given:
        count = values.get("num_labels") or 2
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 2**16:
            raise UserError(f"config.json: num_labels is {count!r}, and a whole number was expected")
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        found = {int(key): str(label) for key, label in given.items()}
        return tuple(found[i] for i in range(len(found)))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError("config.json: id2label does not name the labels 0, 1, ...: use the model's own file") from None

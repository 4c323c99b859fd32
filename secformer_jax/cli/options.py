"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secformer_jax.functions.preset_names import PRESETS

Model = Annotated[str, typer.Option("--model", help="A Hugging Face folder, a hub id, sst2-student or minilm.")]
Preset = Annotated[
    str, typer.Option("--preset", help=f"{', '.join(PRESETS)}; by default the one that the model was trained for.")
]
Gelu = Annotated[str | None, typer.Option("--gelu", help="Another GeLU than the preset's.")]
Softmax = Annotated[str | None, typer.Option("--softmax", help="Another softmax than the preset's.")]
LayerNorm = Annotated[str | None, typer.Option("--layer-norm", help="Another LayerNorm than the preset's.")]
Config = Annotated[str, typer.Option("--config", help="A file in SPU's layout, or the name of one in spu_configs/.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", help="Public padded length; the least that fits.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut texts that are longer than the padded length.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")]
CalibrationFile = Annotated[
    str | None, typer.Option("--calibration", help="The calibration file; calibration.json in the model's folder.")
]
Embedding = Annotated[
    str, typer.Option("--embedding", help="client: the client makes the one-hot; inside: the protocol makes it.")
]
NoKeepWeights = Annotated[bool, typer.Option("--no-keep-weights", help="Open the masked weights anew in each request.")]
ClusterFile = Annotated[str, typer.Option("--cluster", help="The cluster file: SPU's layout and the key secformer.")]
TlsFolder = Annotated[
    Path | None, typer.Option("--tls", help="The folder of certificates, instead of the cluster file's.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure-trusted-first-party", help="SEMI2K whose first party knows all masks: to measure.")
]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]
Texts = Annotated[list[str] | None, typer.Option("--text", help="A text; give it again for more.")]
TextPairs = Annotated[list[str] | None, typer.Option("--text-pair", help="The second text of a pair.")]
AskedCluster = Annotated[
    str | None, typer.Option("--cluster", help="Ask this cluster; of --model only the tokenizer is read then.")
]
Input = Annotated[
    Path | None, typer.Option("--input", help="A file of texts: .csv, .tsv, .jsonl, .parquet, or .txt by lines.")
]
Output = Annotated[
    Path | None, typer.Option("--output", help="Of --input, .jsonl, .csv or .parquet; a stopped run goes on.")
]
TextColumn = Annotated[str | None, typer.Option("--text-column", help="Of --input; text, or the only one.")]
PairColumn = Annotated[str | None, typer.Option("--pair-column", help="The second text's; text_pair if there.")]
Keep = Annotated[list[str] | None, typer.Option("--keep", help="Another column that --output has, too.")]
Client = Annotated[str, typer.Option("--client", help="Who asks, as the cluster file names it.")]

TrainTask = Annotated[str, typer.Option("--task", help="CoLA, MRPC, RTE, STS-B, SST-2 or QNLI.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="GLUE's TSV files, a folder for each task.")]
Out = Annotated[Path, typer.Option("--out", help="The new model's folder; a stopped run goes on.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Examples in a step.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all that is drawn.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, or bfloat16 in products.")]
Evaluations = Annotated[int, typer.Option("--evaluations", help="Dev scores in an epoch; the best stays.")]
TrainLimit = Annotated[int | None, typer.Option("--limit", help="Only the first training examples.")]
TrainLength = Annotated[int, typer.Option("--max-length", help="Longer texts are cut.")]
Dropout = Annotated[bool, typer.Option("--dropout/--no-dropout", help="As the model's config has it.")]

DecoderModel = Annotated[
    str, typer.Option("--model", help="A Hugging Face folder of a Llama or GPT-2 model, or a hub id.")
]
System = Annotated[
    str | None, typer.Option("--system", help="The system's prompt, which is public; the template's own.")
]
MostTokens = Annotated[int, typer.Option("--max-tokens", help="The most tokens of an answer.")]
Temperature = Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token; else they are drawn.")]
TopP = Annotated[float, typer.Option("--top-p", help="Draw among the likeliest that have this probability together.")]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition-penalty", help="What logits of tokens that were there are divided by.")
]
Stops = Annotated[list[str] | None, typer.Option("--stop", help="A text before which the answer ends; up to four.")]
SampleSeed = Annotated[int | None, typer.Option("--seed", help="Of what is drawn; by default another each time.")]

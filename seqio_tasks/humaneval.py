"""HumanEval, 164 functions to complete, as a SeqIO task: `eval_humaneval`.

The input is a problem's prompt as published (imports, signature, docstring). What the model adds
is cut at the first of STOPS and run with the problem's test: `code_metrics.pass_at_k`, which runs
nothing unless it is allowed to (`code_execution`).

mT5's vocabulary has no line break and no run of blanks: a network with it reads a prompt on one
line and can only answer with one line without indentation, so nearly nothing it writes can be a
function's body. That is how mT0 scores 0 in the paper. ByT5's vocabulary keeps both.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import seqio

from seqio_tasks import code_metrics, evaluation_data, raw_rows, task_facts, vocabularies
from seqio_tasks.sources import PythonDataSource

NAME = "eval_humaneval"
SPLIT = "test"
# Where a completion ends: Chen et al. 2021 sample until one of these.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
# The paper's runs drew 200 samples at temperatures 0.2, 0.6 and 0.8 and took the best of the three.
DECODE = {"method": "sample", "num_decodes": 20, "temperature": 0.2, "top_p": 0.95}
_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
_PATTERNS = ("HumanEval.jsonl*", "*/HumanEval.jsonl*", "*humaneval/test*", "*/*humaneval/test*")
_ON_HUB = "openai/openai_humaneval"


def truncate(completion: str, stops: Sequence[str] = STOPS) -> str:
    """The completion before the first of the stop sequences."""
    ends = [at for stop in stops if (at := completion.find(stop)) >= 0]
    return completion[: min(ends, default=len(completion))]


def find() -> raw_rows.RawSplit:
    """HumanEval.jsonl or .jsonl.gz in $MT0_EVAL_DIR or a folder in it, else the Hub's data set.

    ValueError where several files could be meant.
    """
    found = []
    for place in evaluation_data.places():
        for pattern in _PATTERNS:
            found += glob.glob(os.path.join(glob.escape(place), pattern))
    files = sorted({os.path.realpath(path) for path in found})
    if len(files) > 1:
        raise ValueError(
            f"{NAME}: {len(files)} files could be its problems: {', '.join(files)}; name the "
            f"folder of the right one in ${evaluation_data.VARIABLE}."
        )
    return raw_rows.RawSplit(_ON_HUB, None, SPLIT, files=tuple(map(glob.escape, files)))


def _split(file: str | None) -> raw_rows.RawSplit:
    return raw_rows.RawSplit(_ON_HUB, None, SPLIT, files=(file,)) if file else find()


def examples(file: str | None = None) -> Iterator[dict[str, str]]:
    """The problems in order as {'inputs', 'targets', 'task_id', 'test', 'entry_point'}.

    Args:
      file: HumanEval.jsonl, packed or not; None as `find`.

    Raises:
      ValueError: no file, a problem lacks a field, or two have one task_id.
    """
    seen: set[str] = set()
    for number, row in enumerate(_split(file).rows(), start=1):
        lacking = [name for name in _FIELDS if not isinstance(row.get(name), str)]
        if lacking:
            raise ValueError(
                f"{file or NAME}, problem {number} lacks {', '.join(lacking)}; write the fields "
                f"{', '.join(_FIELDS)} as strings."
            )
        if row["task_id"] in seen:
            raise ValueError(f"{file or NAME} has '{row['task_id']}' twice; leave one out.")
        seen.add(row["task_id"])
        yield {
            "inputs": row["prompt"],
            "targets": row["canonical_solution"],
            "task_id": row["task_id"],
            "test": row["test"],
            "entry_point": row["entry_point"],
        }


def _fingerprint(file: str | None) -> str:
    split = _split(file)
    return hashlib.sha256(split.fingerprint().encode()).hexdigest()


def postprocess(
    text: str | Sequence[str], example: Mapping[str, Any] | None = None, is_target: bool = False
) -> dict[str, str] | list[str]:
    """A target becomes its problem, a prediction or several a list of truncated completions."""
    if not is_target:
        return [truncate(one) for one in ([text] if isinstance(text, str) else text)]
    fields = {name: example[name] for name in ("task_id", "test", "entry_point")}
    fields["prompt"] = example["inputs_pretokenized"]
    return {name: value.decode() if isinstance(value, bytes) else value
            for name, value in fields.items()}  # fmt: skip


def add_humaneval_task(
    name: str = NAME,
    file: str | None = None,
    vocabulary: seqio.Vocabulary | None = None,
    *,
    ks: Sequence[int] = code_metrics.KS,
    decode: Mapping[str, Any] = DECODE,
    inputs_eos: bool = False,
) -> seqio.Task:
    """Registers HumanEval, or problems in its form, as a task and returns it.

    Args:
      name: of the task; ValueError if it is taken.
      file: of the problems; None as `find`, which looks when they are first read.
      vocabulary: what $MT0_VOCABULARY names by default; mT5's cannot write code, see above.
      ks: the metric is pass@k for each of these that there are samples for.
      decode: how completions are drawn where the evaluation does not say (fields of DecodeConfig).
      inputs_eos: whether EOS ends the prompt; the published evaluation of mT0 goes without.
    """
    if name in seqio.TaskRegistry.names():
        raise ValueError(f"There is a task '{name}' already; write another name.")
    task = seqio.TaskRegistry.add(
        name,
        source=PythonDataSource(
            {SPLIT: functools.partial(examples, file)},
            fingerprint=functools.partial(_fingerprint, file),
        ),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=vocabularies.output_features(
            vocabulary or vocabularies.named(), inputs_eos
        ),
        postprocess_fn=postprocess,
        metric_fns=[functools.partial(code_metrics.pass_at_k, ks=tuple(ks))],
    )
    task_facts.register_facts(
        name,
        language="en",
        cluster="code",
        dataset=_ON_HUB,
        source_split=SPLIT,
        executes_code=True,
        decode=dict(decode),
    )
    return task


def ensure(name: str) -> bool:
    """Registers `eval_humaneval` if that is the name; returns whether it is."""
    if name != NAME:
        return False
    if name not in seqio.TaskRegistry.names():
        add_humaneval_task()
    return True

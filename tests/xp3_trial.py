"""From raw data to a scored model on real data: build, cache, finetune, rank evaluation.

python -m tests.xp3_trial FOLDER [STEPS] [--prompts_dir=PROMPTSOURCE]

PAWS-X, XQuAD, Tatoeba and GATITOS of $MT0_SHARED under small prompts (or the user's promptsource,
where it has these data sets) become a collection in xP3's layout, are cached with mT5's vocabulary
and train models/mt5/tiny.gin; XCOPA in eleven languages, held out, is scored by rank.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
XCOPA = "et ht id it qu sw ta th tr vi zh".split()
PROMPTS = {
    "paws-x/en": ("same", "{{ sentence1 }}\n{{ sentence2 }}\nSame meaning? ||| "
               "{{ ['no', 'yes'][label] }}"),
    "xquad/xquad.en": ("ask", "{{ context }}\n{{ question }} ||| {{ answers.text[0] }}"),
    "tatoeba": ("to", "{{ english }}\nSay it in {{ code }}: ||| {{ other }}"),
    "gatitos": ("term", "{{ english }} in {{ code }} is ||| {{ term }}"),
    "super_glue/copa": ("because", "{{ premise }} {{ 'because' if question == 'cause' else 'so' }} "
                        "... A: {{ choice1 }} B: {{ choice2 }} ||| {{ answer_choices[label] }}"),
}  # fmt: skip
# Which raw files are what; {{subset}} is filled in by the build.
DATA = """
[[data]]
dataset = "paws-x"
subset = ["de", "en", "es", "fr", "ja", "ko", "zh"]
split = "train"
files = "{place}/pawsx/dev-{{subset}}.tsv"
columns = ["sentence1", "sentence2", "label:int"]
[[data]]
dataset = "xquad"
subset = ["xquad.en", "xquad.es", "xquad.hi", "xquad.vi", "xquad.zh"]
split = "train"
files = "{place}/xquad/{{subset}}.json"
[[data]]
dataset = "tatoeba"
subset = ["ben", "cat", "fra", "hin", "ind", "swh"]
split = "train"
files = {{ english = "{place}/tatoeba/tatoeba.{{subset}}-eng.eng", other = "{place}/tatoeba/tatoeba.{{subset}}-eng.{{subset}}" }}
constants = {{ code = "{{subset}}" }}
language = "{{subset}}"
prompts = "tatoeba"
[[data]]
dataset = "gatitos"
subset = ["ak", "es", "fon", "fr", "hi", "tum", "wo"]
split = "train"
files = "{place}/gatitos/en_{{subset}}.tsv"
columns = ["english", "term"]
constants = {{ code = "{{subset}}" }}
language = "{{subset}}"
prompts = "gatitos"
"""  # noqa: E501
# The module a researcher writes.
TASKS = """
import seqio
from seqio_tasks import prompted, raw_rows, vocabularies, xp3
from seqio_tasks.prompt_library import PromptLibrary

xp3.add_collection("trial", {collection!r})
templates = PromptLibrary({prompts!r}).templates("super_glue/copa")
for code in {languages}:
    rows = {{"validation": raw_rows.RawSplit(
        "xcopa", code, "validation", files=({shared!r} + f"/xcopa/{{code}}/val.{{code}}.jsonl",))}}
    prompted.add_prompted_task(
        f"trial_xcopa_{{code}}", rows, templates, vocabularies.mt5(), rank=True, language=code,
        fields={{"cluster": "completion", "held_out_cluster": True,
                 "seen_language": code in ("id", "sw", "vi", "zh")}})
seqio.MixtureRegistry.add("xcopa_rank", [(f"trial_xcopa_{{code}}", 1.0) for code in {languages}])
"""


def write_prompts(folder: Path) -> None:
    """Writes the prompts above as promptsource's templates.yaml files."""
    for number, (key, (name, jinja)) in enumerate(PROMPTS.items()):
        path = folder / key / "templates.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        choices = "{{ choice1 }} ||| {{ choice2 }}" if key == "super_glue/copa" else None
        fields = {"name": name, "jinja": jinja, "answer_choices": choices, "reference": ""}
        lines = "".join(f"    {field}: {json.dumps(value)}\n" for field, value in fields.items())
        path.write_text(
            f"dataset: {key}\ntemplates:\n  {number:08d}-0000-4000-8000-000000000000: !Template\n"
            f"{lines}    metadata: !TemplateMetadata {{original_task: true}}\n"
        )


def run(folder: Path, shared: Path, steps: int, prompts: str | None = None) -> dict:
    """Runs the whole chain and returns {'first_loss', 'last_loss', 'summary', 'said'}."""
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder / "prompts")
    (folder / "data.toml").write_text(DATA.format(place=shared / "data"))
    copies = ":".join(filter(None, [prompts, str(folder / "prompts")]))
    collection, module = folder / "data" / "trial", folder / "trial_tasks.py"
    module.write_text(TASKS.format(
        collection=str(collection), prompts=copies, languages=XCOPA,
        shared=str(shared / "data"),
    ))  # fmt: skip
    said = _mt0(
        shared, "tasks", "build", "--collection=trial", f"--output_dir={folder / 'data'}",
        f"--data={folder / 'data.toml'}", f"--prompts_dir={copies}",
    )  # fmt: skip
    model = folder / "model"
    common = [
        "--gin_file=models/mt5/tiny.gin", f"--gin.MIXTURE_OR_TASK_MODULE={str(module)!r}",
        "--gin.network.T5Config.dtype='float32'",
    ]  # fmt: skip
    environment = {"MT0_CACHE_DIR": str(folder / "cache")}
    said += _mt0(
        shared, "train", "--gin_file=models/mt5/tiny.gin", "--gin_file=runs/pretrain.gin",
        *common[1:], "--gin.MIXTURE_OR_TASK_NAME='trial'", f"--gin.MODEL_DIR={str(model)!r}",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 256, 'targets': 64}", "--gin.BATCH_SIZE=8",
        f"--gin.TRAIN_STEPS={steps}", f"--gin.EVAL_PERIOD={steps}", "--gin.EVAL_STEPS=2",
        "--gin.utils.create_learning_rate_scheduler.factors='constant'",
        "--gin.utils.create_learning_rate_scheduler.base_learning_rate=0.01",
        "--gin.LOSS_NORMALIZING_FACTOR='NUM_REAL_TARGET_TOKENS'", "--gin.train.log_every_steps=5",
        **environment,
    )  # fmt: skip
    said += _mt0(
        shared, "eval", *common[:1], "--gin_file=runs/eval.gin", *common[1:],
        "--gin.MIXTURE_OR_TASK_NAME='xcopa_rank'", f"--gin.CHECKPOINT_PATH={str(model)!r}",
        f"--gin.EVAL_OUTPUT_DIR={str(folder / 'eval')!r}", "--gin.SPLIT='validation'",
        **environment,
    )  # fmt: skip
    lines = [json.loads(line) for line in (model / "metrics.jsonl").open()]
    losses = [m["metrics"]["loss"] for m in lines if m["split"] == "train"]
    return {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "summary": json.loads((folder / "eval" / "summary.json").read_text()),
        "rank": [json.loads(line) for line in (folder / "eval" / "rank.jsonl").open()],
        "said": said,
    }


def _mt0(shared: Path, *arguments: str, **environment: str) -> str:
    vocabulary = shared / "vocab/mt5/spiece.model"
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "mt0_tpu", *arguments], capture_output=True, text=True,
        env={**os.environ, "MT0_VOCABULARY": str(vocabulary), "JAX_PLATFORMS": "cpu",
             "XLA_FLAGS": "", "PYTHONPATH": paths, **environment},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"mt0 {' '.join(arguments)}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    flags = [a for a in sys.argv[1:] if a.startswith("--")]
    folder, *rest = [a for a in sys.argv[1:] if not a.startswith("--")]
    found = run(
        Path(folder).resolve(),
        Path(os.environ.get("MT0_SHARED", REPOSITORY.parent / "shared")).resolve(),
        int(rest[0]) if rest else 300,
        *(flag.partition("=")[2] for flag in flags),
    )
    print(found["said"])
    print(f"loss {found['first_loss']:.3f} -> {found['last_loss']:.3f}")

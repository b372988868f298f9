"""Run folders with every file that the report reads, made up by a generator; also a script.

python -m tests.report_folders FOLDER      (then: mt0 report FOLDER)

No number here was measured: accuracies are drawn around a run's made-up skill.
"""

from __future__ import annotations

import json
import random
import sys
import zlib
from pathlib import Path

# data set -> cluster, number of choices, languages seen, languages unseen, task of a language.
_XNLI = ("nli", 3, "ar en es fr hi sw ur vi zh", "bg de el ru th tr", "eval_xnli_{}")
PAPER = {
    "xnli": _XNLI,
    "super_glue/rte": ("nli", 2, "en", "", "eval_super_glue_rte"),
    "super_glue/cb": ("nli", 3, "en", "", "eval_super_glue_cb"),
    "anli": ("nli", 3, "en", "", "eval_anli_r1"),
    "xcopa": ("sentence_completion", 2, "id sw ta vi zh", "et ht it qu th tr", "eval_xcopa_{}"),
    "super_glue/copa": ("sentence_completion", 2, "en", "", "eval_super_glue_copa"),
    "xwinograd": ("coreference_resolution", 2, "en fr pt zh", "jp ru", "eval_xwinograd_{}"),
}
PROMPTS = ("GPT-3 style", "MNLI crowdsource", "best_option", "cause_effect", "C1 or C2? <p> & “q”")

# (inputs, choices, answer): sentences of our own, in three scripts and two directions.
QUESTIONS = {
    "eval_xnli_ar": ("القطة نائمة على السرير. هل ينتج أن القطة مستيقظة؟", ["نعم", "ربما", "لا"], 2),
    "eval_xnli_hi": ("लड़का पानी पी रहा है। क्या वह प्यासा था?", ["हाँ", "शायद", "नहीं"], 1),
    "eval_xcopa_zh": ("下雨了,所以他", ["打开了雨伞。", "关上了冰箱。"], 0),
    "eval_xcopa_th": ("ฝนตก เขาจึง", ["กางร่ม", "ปิดตู้เย็น"], 0),
}
TEXTS = [
    ("Traduis en arabe : The sea is calm.", "البحر هادئ.", ("البحر هادئ.", "السماء زرقاء.")),
    ("Translate to Hindi: Good morning", "सुप्रभात", ("सुप्रभात", "शुभ रात्रि")),
]


def rank_lines(skill: float, step: int, seed: int = 0) -> list[dict]:
    """Lines of rank.jsonl for the paper's data sets; skill 0 is chance and 1 knows all."""
    lines = []
    for dataset, (cluster, choices, seen, unseen, task) in PAPER.items():
        for language in [*seen.split(), *unseen.split()]:
            name = task.format(language)
            for prompt in PROMPTS:
                drawn = random.Random(zlib.crc32(f"{name} {prompt} {skill} {seed}".encode()))
                share = skill * (1 if language in seen.split() else 0.6)
                accuracy = 1 / choices + (1 - 1 / choices) * share + drawn.gauss(0, 0.02)
                lines.append(
                    {
                        "task": name,
                        "cluster": cluster,
                        "dataset": dataset,
                        "language": {"jp": "ja"}.get(language, language),
                        "prompt_language": "EN",
                        "prompt": prompt,
                        "num_examples": 100,
                        "accuracy": min(max(accuracy, 0.0), 1.0),
                        "chance": 1 / choices,
                        "majority": 1 / choices + 0.03,
                        "held_out_cluster": True,
                        "seen_language": language in seen.split(),
                        "step": step,
                    }
                )
    return lines


def curve_lines(final_loss: float, steps: int) -> list[dict]:
    """Lines of metrics.jsonl, training and evaluation during it."""
    lines = []
    for step in range(steps // 40, steps + 1, steps // 40):
        loss = final_loss + 4 / (1 + 20 * step / steps)
        metrics = {
            "loss_per_nonpadding_target_token": loss,
            "accuracy": 1 / (1 + loss / 3),
            "learning_rate": 0.001,
            "timing/real_tokens_per_second": 15000 + 10 * (step % 7),
        }
        lines.append({"step": step, "split": "train", "metrics": metrics})
        if step % (steps // 4) == 0:
            metrics = {"loss_per_nonpadding_target_token": loss + 0.1, "accuracy": 0.5}
            lines.append({"step": step, "split": "eval", "metrics": metrics})
    return lines


# Arm -> per seed (accuracy on the seen language, on the unseen one).
STUDY = {
    "pretrain": [(0.30, 0.30), (0.32, 0.32), (0.34, 0.34)],
    "english": [(0.50, 0.40), (0.52, 0.41), (0.51, 0.42)],
    "multilingual": [(0.70, 0.60), (0.72, 0.61), (0.71, 0.62)],
}


def line(cluster="nli", language="en", prompt="p", accuracy=0.5, **changed) -> dict:
    """One line of rank.jsonl; a third is chance and 0.4 the majority's."""
    return {
        "task": f"mini_eval_{cluster}_{language}",
        "cluster": cluster,
        "language": language,
        "prompt": prompt,
        "num_examples": 100,
        "accuracy": accuracy,
        "chance": 1 / 3,
        "majority": 0.4,
        "held_out_cluster": cluster in ("nli", "completion"),
        "seen_language": language in ("en", "fr"),
        "step": 30,
    } | changed


def write_run(folder: Path, lines: list[dict] | None = None, metrics: list[dict] | None = None):
    """Makes a run folder with what is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("eval/rank.jsonl", lines), ("metrics.jsonl", metrics)):
        if rows is not None:
            write_lines(folder / name, rows)
    return folder


def write_study(root: Path, scores: dict[str, list[tuple[float, float]]] = STUDY) -> Path:
    """Makes a study: three clusters in a seen and an unseen language, under two prompts."""
    for arm, seeds in scores.items():
        for seed, (seen, unseen) in enumerate(seeds):
            lines = [
                line(cluster, language, f"p{i}", accuracy)
                for cluster in ("nli", "completion", "translation")
                for language, accuracy in (("fr", seen), ("eu", unseen))
                for i in range(2)
            ]
            write_run(root / f"seed{seed}" / arm, lines, curve_lines(1.0, 40))
    return root


def config_text(folder: Path, size: int, rate: float) -> str:
    """A config.gin as training leaves it."""
    return (
        "# mt0 train: the resolved config.\n"
        "BATCH_SIZE = 512  # recipes/mt0.gin line 3\n"
        f"MODEL_DIR = '{folder}'  # the command line\n"
        "MIXTURE_OR_TASK_NAME = 'xp3'\n"
        "TASK_FEATURE_LENGTHS = {'inputs': 1024,\n    'targets': 1024}\n\n"
        "train.total_steps = 25000\n"
        f"network.T5Config.emb_dim = {size}\n"
        f"network.T5Config.num_encoder_layers = {size // 128 if size > 512 else 8}\n"
        f"utils.create_learning_rate_scheduler.base_learning_rate = {rate}\n"
    )


def write_lines(path: Path, rows: list[dict]) -> None:
    """Writes a jsonl file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def write_everything(folder: Path, skill: float, size: int, rate: float, right: bool) -> Path:
    """Makes a MODEL_DIR with all that the report reads: three steps, ranks, texts and code."""
    steps = (0, 10_000, 25_000)
    lines = [line for i, step in enumerate(steps) for line in rank_lines(skill * i / 2, step)]
    write_lines(folder / "eval" / "rank.jsonl", lines)
    write_lines(folder / "metrics.jsonl", curve_lines(2 - skill, 25_000))
    (folder / "config.gin").write_text(config_text(folder, size, rate))
    (folder / "model-info.txt").write_text(f"total parameters: {size * 586_000:,}\n")
    (folder / "eval" / "summary.json").write_text(json.dumps({"checkpoint": "x", "step": 25_000}))
    predictions = folder / "eval" / "inference_eval"
    for task, (inputs, choices, answer) in QUESTIONS.items():
        rows = [
            {
                "inputs": inputs,
                "choices": choices,
                "scores": [-1.0] * len(choices),
                "prediction": answer if right or number else (answer + 1) % len(choices),
                "answer": answer,
                "prompt": prompt,
            }
            for number, prompt in enumerate(PROMPTS)
        ]
        write_lines(predictions / f"{task}-025000.jsonl", rows)
    for number, step in enumerate(steps[1:]):
        texts = [
            {"inputs": {"inputs_pretokenized": i}, "target": t, "prediction": p[0 if right else n]}
            for n, (i, t, p) in enumerate(TEXTS)
        ]
        write_lines(predictions / f"eval_wmt14_en_hi-{step:06d}.jsonl", texts)
        metrics = {"bleu": 4.0 + 9 * skill * number, "chrf": 20.5 + number, "rougeL": 12.25}
        with (predictions / "eval_wmt14_en_hi-metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
    code = {"step": 25_000, "pass@1": 2.5 * skill, "pass@10": 7.5 * skill}
    write_lines(predictions / "eval_humaneval-metrics.jsonl", [code])
    return folder


def write_two_runs(root: Path) -> list[Path]:
    """Makes two runs of different size, one of them better."""
    return [
        write_everything(root / "mt0_small", 0.12, 512, 0.001, right=False),
        write_everything(root / "mt0_large_with_a_long_name", 0.3, 1024, 0.0005, right=True),
    ]


if __name__ == "__main__":
    for made in write_two_runs(Path(sys.argv[1])):
        print(made)

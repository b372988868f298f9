"""Small folders of evaluation data and prompts in words of our own."""

import json
from pathlib import Path

import yaml

COPA = ("best_option", "C1 or C2? premise, so/because…", "i_am_hesitating", "cause_effect",
        "plausible_alternatives")  # fmt: skip
RTE = ("MNLI crowdsource", "GPT-3 style", "does it follow that", "should assume",
       "guaranteed true")  # fmt: skip
TWO = "{{ choice1 }} ||| {{ choice2 }}"


def write_prompts(root: Path, key: str, names, jinja: str, choices: str) -> Path:
    """A templates.yaml whose templates differ in the first word of the input alone."""
    templates = {
        str(number): {"name": name, "jinja": f"{number}: {jinja}", "answer_choices": choices}
        for number, name in enumerate(names)
    }
    path = root / key / "templates.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({"templates": templates}, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_copa_prompts(root: Path, key: str = "super_glue/copa", names=COPA) -> Path:
    """The five prompts of COPA by name."""
    jinja = "{{ premise }} {{ question }}? ||| {{ answer_choices[label] }}"
    return write_prompts(root, key, names, jinja, TWO)


def copa_row(number: int, **changes) -> dict:
    """A row of XCOPA."""
    return {
        "premise": f"premise {number}", "choice1": f"one {number}", "choice2": f"two {number}",
        "question": "cause", "label": number % 2, "idx": number, **changes,
    }  # fmt: skip


def write_rows(path: Path, rows) -> Path:
    """A .jsonl file; rows are dicts, or how many of XCOPA to make up."""
    rows = [copa_row(number) for number in range(rows)] if isinstance(rows, int) else rows
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return path

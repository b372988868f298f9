"""Every hardware file compiled, and docs/hardware.md written from what came out.

    python -m benchmarks.hardware_table                  # compiles what has no figures yet
    python -m benchmarks.hardware_table --size xl        # of one size
    python -m benchmarks.hardware_table --choose         # writes gin/hardware anew, by formula
    python -m benchmarks.hardware_table --table          # the page alone, from figures at hand

Needs libtpu (the extra `tpu`, or PYTHONPATH=.libtpu after `make tpu-test`) and no TPU. It may be
stopped at any time: figures are kept in benchmarks/hardware_table.jsonl, a line each, and made
again where the hardware file or the recipe has changed. About 100 to 250 CPU-seconds a line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from mt0_tpu.gin_config import gin_folder
from mt0_tpu.planning import plan_command, search, topologies
from mt0_tpu.whole_file import write_whole

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "benchmarks" / "hardware_table.jsonl"
PAGE = ROOT / "docs" / "hardware.md"
# Size -> slices, the most asked for first.
SLICES = {
    "small": ("v5e-8", "v4-8"),
    "base": ("v5e-8", "v4-8"),
    "large": ("v4-32", "v5e-32"),
    "xl": ("v4-64", "v5e-64", "v5p-64"),
    "xxl": ("v4-128", "v4-256", "v5e-256", "v5p-128"),
    "bloom_560m": ("v5e-8",),
    "bloom_1b1": ("v5e-8",),
    "bloom_1b7": ("v5e-16",),
    "bloom_3b": ("v4-32",),
    "bloom_7b1": ("v4-64",),
    "bloom_176b": ("v5p-128", "v4-512"),
}
# By formula, so with room for what the formulas leave out.
_FILLED = 0.75
GIB = 2**30


def recipe(size: str) -> str:
    family, _, rest = size.rpartition("_")
    return f"recipes/bloomz_{rest}.gin" if family else f"recipes/packed_mt0_{size}.gin"


def hardware_file(size: str, name: str) -> str:
    return f"hardware/{name}/{size}.gin"


def network_name(size: str) -> str:
    family, _, rest = size.rpartition("_")
    return f"{family.upper()}-{rest}" if family else f"mT5-{size}"


def choose(size: str, name: str) -> None:
    """Writes a hardware file: the fastest by formula that leaves a quarter of the memory."""
    arguments = plan_command.arguments_of("train", ([recipe(size)], [], []))
    top = topologies.topology(name)
    everything = [
        one for one in search.candidates(arguments, top)
        if one.remat_policy != "none" and not one.sequence_parallel
    ]  # fmt: skip
    fitting = [
        pair for pair in search.predictions(arguments, everything, top)
        if pair[1].peak_bytes <= _FILLED * top.usable_hbm_gib * GIB
    ]  # fmt: skip
    best = min(fitting, key=lambda pair: (round(pair[1].seconds, 3), pair[1].peak_bytes))[0]
    lines = [
        f"# {network_name(size)} on {top}.",
        f"#   mt0 train --gin_file={recipe(size)} --gin_file={hardware_file(size, name)} …",
        "# Chosen by formula; docs/hardware.md has what the compiler says of it. Never run.",
        "",
        *search.gin_lines(best, arguments["model"]),
    ]
    path = gin_folder() / hardware_file(size, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "\n".join([*lines, ""]))


def key(size: str, name: str) -> str:
    """Changes with what the run would be."""
    text = "".join(
        (gin_folder() / f).read_text() for f in (recipe(size), hardware_file(size, name))
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def figures() -> dict[tuple[str, str], dict]:
    if not FIGURES.exists():
        return {}
    lines = map(json.loads, FIGURES.read_text(encoding="utf-8").splitlines())
    return {(line["size"], line["topology"]): line for line in lines}


def compiled(size: str, name: str) -> dict:
    """Runs `mt0 plan`, as a user would; a plan that does not fit counts as well."""
    command = [
        sys.executable, "-m", "mt0_tpu", "plan", f"--gin_file={recipe(size)}",
        f"--gin_file={hardware_file(size, name)}", f"--topology={name}", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, plan_command.NO_FIT):
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return {"size": size, "topology": name, "key": key(size, name), "plan": json.loads(done.stdout)}


def keep(row: dict) -> None:
    rows = figures() | {(row["size"], row["topology"]): row}
    ordered = [rows[pair] for pair in wanted() if pair in rows]
    write_whole(FIGURES, "".join(json.dumps(each) + "\n" for each in ordered))


def wanted(size: str | None = None) -> list[tuple[str, str]]:
    return [(s, name) for s, names in SLICES.items() if size in (None, s) for name in names]


def table_row(row: dict) -> str:
    plan = row["plan"]
    mesh = " × ".join(f"{axis} {ways}" for axis, ways in plan["mesh"].items() if ways > 1) or "one"
    if plan["memory"] is None:
        return f"| {row['size']} | {row['topology']} | {mesh} | does not fit | | | | | |"
    reserved = plan["memory"]["reserved"] / GIB
    estimate = plan["estimate"]
    cells = [
        row["size"], row["topology"], mesh, plan["num_microbatches"], plan["remat_policy"],
        f"{plan['memory']['peak'] / GIB:.1f}", f"{reserved:.1f} of {plan['limit_bytes'] / GIB:.2f}",
        f"{estimate['step_s']:.2f}", f"{estimate['mfu']:.0%}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def write_page() -> None:
    """The page holds what was compiled, and says what was not."""
    rows = figures()
    fresh = [pair for pair in wanted() if pair in rows and rows[pair]["key"] == key(*pair)]
    missing = [f"{size} on {name}" for size, name in wanted() if (size, name) not in fresh]
    lines = [
        "# Hardware files",
        "",
        "Written by `python -m benchmarks.hardware_table`; the figures of each line come from",
        "`mt0 plan --gin_file=recipes/packed_mt0_SIZE.gin --gin_file=hardware/TYPE/SIZE.gin",
        "--topology=TYPE --json`, 160 packed rows of 1024 + 256 tokens a step; of a BLOOM",
        "with recipes/bloomz_SIZE.gin and hardware/TYPE/bloom_SIZE.gin, 1024 rows of 2048 tokens",
        "up to 1b1, 2048 rows beyond. Compiled, not run: the step time is a roofline of peak rates",
        "(docs/planning.md) and real ones are longer.",
        "",
        "| size | slice | mesh | microbatches | remat | alive at once, GiB | reserved, GiB |"
        " step, s (estimate) | MFU (estimate) |",
        "|---|---|---|---|---|---|---|---|---|",
        *[table_row(rows[pair]) for pair in fresh],
    ]
    if missing:
        lines += ["", f"Chosen by formula and not compiled yet: {', '.join(missing)}."]
    write_whole(PAGE, "\n".join([*lines, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=sorted(SLICES))
    parser.add_argument("--topology")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--table", action="store_true")
    flags = parser.parse_args()
    pairs = [p for p in wanted(flags.size) if flags.topology in (None, p[1])]
    for pair in pairs:
        if flags.choose:
            choose(*pair)
            continue
        found = figures().get(pair)
        if flags.table or (found and found["key"] == key(*pair)):
            continue
        print(f"{pair[0]} on {pair[1]} ...", file=sys.stderr, flush=True)
        keep(compiled(*pair))
        write_page()
    write_page()


if __name__ == "__main__":
    main()

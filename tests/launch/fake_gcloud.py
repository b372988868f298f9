"""Stands in for gcloud, first on PATH: logs its arguments and plays one queued resource.

$FAKE_CLOUD is a folder:
  plan.json   {"lives": [[state, …], …], "workers": 2, …}: each create begins the next life, in
              which each describe says the next state (the last one for ever)
  log.jsonl   the arguments of every call, a list a line
  preempt     while it exists the resource is SUSPENDED
  <life>/<i>  the home of worker i, fresh in every life; of slice n from 1 on <life>/<n>.<i>

Like the real one it hands --command to the worker's shell as one string, with the home as the
current folder. What the plan may say besides: "slices", "account", "project", "types" (of the
zone), "create_fails" and "ssh_fails" (how many calls fail at first), "start_fails" (how many
starts of the run reach the first worker alone).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])
PLAN = {
    "workers": 2,
    "slices": 1,
    "account": "me@example.org",
    "project": "mine",
    "types": ["v4-64"],
}
PLAN |= json.loads((CLOUD / "plan.json").read_text())
STATE = CLOUD / "state.json"


def main(words):
    with (CLOUD / "log.jsonl").open("a") as log:
        log.write(json.dumps(words) + "\n")
    played = {"life": 0, "alive": False, "describes": 0, "failures": {}}
    if STATE.exists():
        played = json.loads(STATE.read_text())
    code = answer(words, played)
    STATE.write_text(json.dumps(played))
    return code


def answer(words, played):
    flags = {word.partition("=")[0]: word.partition("=")[2] for word in words if word[:2] == "--"}
    plain = [word for word in words if word[:2] != "--"]
    if plain[0] == "auth":
        print(PLAN["account"])
        return 0
    if plain[0] == "config":
        print(PLAN["project"])
        return 0
    if plain[2] == "accelerator-types":
        print(*PLAN["types"], sep="\n")
        return 0
    verb = plain[3]
    allowed = PLAN.get(f"{verb}_fails", 0)
    if played["failures"].setdefault(verb, 0) < allowed:
        played["failures"][verb] += 1
        print(f"ERROR: {verb} fails as planned", file=sys.stderr)
        return 1
    return globals()[verb](plain, flags, played)


def create(plain, flags, played):
    assert not played["alive"], "created twice"
    played |= {"life": played["life"] + 1, "alive": True, "describes": 0}
    return 0


def describe(plain, flags, played):
    if not played["alive"]:
        print("ERROR: (gcloud) NOT_FOUND: Resource 'x' was not found", file=sys.stderr)
        return 1
    states = PLAN["lives"][played["life"] - 1]
    print("SUSPENDED" if (CLOUD / "preempt").exists() else
          states[min(played["describes"], len(states) - 1)])  # fmt: skip
    played["describes"] += 1
    return 0


def delete(plain, flags, played):
    assert played["alive"], "deleted what is not there"
    played["alive"] = False
    (CLOUD / "preempt").unlink(missing_ok=True)
    return 0


def homes(flags, played):
    def chosen(flag, count):
        return range(count) if flags[flag] == "all" else [int(flags[flag])]

    for number in chosen("--node", PLAN["slices"]):
        for index in chosen("--worker", PLAN["workers"]):
            home = CLOUD / str(played["life"]) / (f"{number}.{index}" if number else str(index))
            home.mkdir(parents=True, exist_ok=True)
            yield home


def scp(plain, flags, played):
    source, target = plain[4:6]
    for home in homes(flags, played):
        shutil.copy(source, home / target.partition(":")[2])
    return 0


def ssh(plain, flags, played):
    path = f"{CLOUD / 'worker_bin'}:{os.environ['PATH']}"
    codes = []
    reached = list(homes(flags, played))
    starts = played["failures"].setdefault("start", 0)
    if "worker_start" in flags["--command"] and starts < PLAN.get("start_fails", 0):
        played["failures"]["start"] += 1
        codes.append(255)
        del reached[1:]
    for home in reached:
        # The worker's environment, not the caller's: what is not sent does not arrive.
        environment = {"PATH": path, "HOME": str(home), "FAKE_CLOUD": str(CLOUD)}
        environment |= PLAN.get("worker_environment", {})
        codes.append(
            subprocess.run(
                ["bash", "-c", flags["--command"]], cwd=home, env=environment, check=False
            ).returncode
        )
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

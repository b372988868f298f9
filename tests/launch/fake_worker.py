"""Stands in for three programs of a worker, by the name it is called: tmux, python3, mt0.

tmux     starts what it is given without a shell, as the real one does with several words
python3  logs its arguments to $HOME/python3.jsonl; `-m uv venv` makes a .venv with our mt0
mt0      writes its arguments to $HOME/mt0.jsonl and ends as $FAKE_CLOUD/plan.json says:
         "exits": a code for each start on worker 0, -15 being a signal; "exec": argv to become
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["HOME"])
CLOUD = Path(os.environ["FAKE_CLOUD"])


def note(name, content):
    with (HOME / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(content) + "\n")


def tmux(words):
    name = words[words.index("-s" if words[0] == "new-session" else "-t") + 1].lstrip("=")
    file = HOME / f"{name}.session"
    if words[0] == "new-session":
        command = words[words.index(name) + 1 :]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        file.write_text(str(child.pid))
        return 0
    try:
        session = int(file.read_text())
        if words[0] == "kill-session":
            os.killpg(session, signal.SIGHUP)
        # A zombie has ended; its parent, the fake of new-session, has gone, so init reaps it.
        status = Path(f"/proc/{session}/stat").read_text().rpartition(")")[2].split()[0]
        return 1 if status == "Z" else 0
    except (OSError, ValueError):
        return 1


def python3(words):
    note("python3", words)
    if words[:3] == ["-m", "uv", "venv"]:
        folder = Path(words[-1]) / "bin"
        folder.mkdir(parents=True)
        for name in ("python", "mt0"):
            (folder / name).symlink_to(CLOUD / "worker_bin" / name)
    return 0


def mt0(words):
    plan = json.loads((CLOUD / "plan.json").read_text())
    note("mt0", words)
    note("environment", dict(os.environ))
    if "exec" in plan:
        os.execvpe(plan["exec"][0], [*plan["exec"], *words], os.environ | plan["exec_environment"])
    print("mt0 says: step 7", flush=True)
    time.sleep(plan.get("seconds", 0))
    starts = CLOUD / "starts"
    if HOME.name != "0":
        return 0
    count = len(starts.read_text()) if starts.exists() else 0
    with starts.open("a") as file:
        file.write("x")
    code = plan.get("exits", [0])[count]
    if code == "preempted":
        (CLOUD / "preempt").touch()
        time.sleep(60)  # until the machine is taken away
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    sys.exit({"tmux": tmux, "python3": python3, "python": python3, "mt0": mt0}[name](sys.argv[1:]))

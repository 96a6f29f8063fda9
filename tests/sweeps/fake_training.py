"""Replaces hyperseg_jax.train in tests of scheduling: the same command line, metrics.jsonl, saves and signals.

Its checkpoint is a chain of hashes, which detects steps that are lost, repeated or from another trial.
"""

import hashlib
import json
import os
import pathlib
import signal
import sys
import time

flags = dict(text.removeprefix("--config.").split("=", 1) for text in sys.argv[1:] if text.startswith("--config."))
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
steps, rate = int(flags["train.steps"]), float(flags["rate"])
workdir.mkdir(parents=True, exist_ok=True)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
if rate < 0:
    sys.exit("rate is negative")
if rate == 13:
    print("error: bad luck")
    sys.exit(2)

checkpoint, metrics, lock_file = workdir / "checkpoint.json", workdir / "metrics.jsonl", workdir / "alone"
state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "chain": ""}
environment_names = ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS", "TPU_CHIPS_PER_PROCESS_BOUNDS")
start = {
    "pid": os.getpid(),
    "parent": os.getppid(),
    "from": state["step"],
    "cores": sorted(os.sched_getaffinity(0)),
    "time": time.time(),
    "environment": {name: os.environ[name] for name in environment_names if name in os.environ},
}
with (workdir / "starts.jsonl").open("a") as file:
    file.write(json.dumps(start) + "\n")
if lock_file.exists() and pathlib.Path("/proc", lock_file.read_text()).exists():
    sys.exit("another process works here")
lock_file.write_text(str(os.getpid()))
lines = metrics.read_text().splitlines() if metrics.exists() else []
metrics.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= state["step"]))


def save():
    part = checkpoint.with_suffix(".part")
    part.write_text(json.dumps(state))
    part.replace(checkpoint)


for step in range(state["step"] + 1, steps + 1):
    time.sleep(float(flags.get("pause", 0)))
    state = {"step": step, "chain": hashlib.sha256(f"{state['chain']} {rate} {step}".encode()).hexdigest()}
    rows = [{"kind": "train", "step": step, "task": "referring", "loss": 1 / (1 + rate * step)}]
    rows += [{"kind": "validation", "step": step, "task": "referring", "ciou": rate * step}] if step % 5 == 0 else []
    with metrics.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    if step % 10 == 0 or step == steps or stop:
        save()
    if stop:
        break
lock_file.unlink()
print(f"ended at step {state['step']}")
sys.exit(int(flags.get("code", 0)))

"""The numbers behind the tables and figures: results/METHOD.json.xz, one compressed file a method.

A file holds {arm: {seed: run}}, its names as strings. A run is

    environment   versions, commit and machine, as in args.json
    task          checksum of the tiny task that it was made in
    metrics       {name: one value for each row of metrics.jsonl, None where the row has none}; seconds
                  (time/...) to the millisecond: their other digits were half of a file
    analysis, start, taught   what claims_METHOD.py measured on its models, where it did
"""

import hashlib
import json
import lzma
import re
from pathlib import Path

TINY = Path(__file__).resolve().parent.parent / "tiny"
TASK_1 = TINY.parent / "results" / "logs" / "task-1"  # python tiny/make.py --seed 1 --out results/logs/task-1
TASK = ("train.jsonl", "test.jsonl", "harder.jsonl", "model/model.safetensors")
MEASURED = ("analysis", "start", "taught")  # NAME.json in a run's folder


def task():
    """A checksum of the tiny task as it is now: its problems, and the weights that training starts from."""
    return hashlib.sha256(b"".join((TINY / name).read_bytes() for name in TASK)).hexdigest()


def load(file):
    """{arm: {seed: run}} of a file, {} without one."""
    return json.loads(lzma.decompress(file.read_bytes())) if file.exists() else {}


def save(file, runs):
    """Writes {arm: {seed: run}}: the same runs make the same bytes, whatever order they came in."""
    text = json.dumps(runs, sort_keys=True, separators=(",", ":"))
    file.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def pack(folder, patterns, task):
    """What is kept of a finished run's folder. patterns: of the metrics to keep; task: its checksum."""
    environment = json.loads((folder / "args.json").read_text())["environment"]
    del environment["command"]  # it names folders of this machine
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = sorted({name for row in rows for name in row})
    kept = [name for name in logged if any(re.fullmatch(pattern, name) for pattern in patterns)]
    metrics = {name: [row.get(name) for row in rows] for name in kept}
    for name in (name for name in kept if name.startswith("time/")):
        metrics[name] = [value if value is None else round(value, 3) for value in metrics[name]]
    run = {"environment": environment, "task": task, "metrics": metrics}
    for name in MEASURED:
        if (folder / f"{name}.json").exists():
            run[name] = json.loads((folder / f"{name}.json").read_text())
    return run


class Logs:
    """What tables and figures are made of.

    runs: {arm: {seed: run}}. seeds: {arm: the seeds to look at, in this order}; none: all, by number.
    """

    def __init__(self, runs, seeds=None):
        self.seeds = seeds or {arm: sorted(some, key=int) for arm, some in runs.items()}
        self.runs = {arm: [runs[arm][str(seed)] for seed in some] for arm, some in self.seeds.items()}

    @property
    def arms(self):
        return list(self.runs)

    def rows(self, arm):
        """For each seed of an arm its metrics, one dict a row: step 0 first, then one a step."""
        return [rows_of(run["metrics"]) for run in self.runs[arm]]

    def measured(self, arm, name="analysis"):
        """For each seed of an arm what claims_METHOD.py wrote to NAME.json; seeds without it are left out."""
        return [run[name] for run in self.runs[arm] if name in run]

    def device(self):
        """The machine of the first run."""
        return self.runs[self.arms[0]][0]["environment"]["device"]


def rows_of(metrics):
    """{name: [value or None]} -> one dict a row, of the values there are."""
    names = list(metrics)
    columns = zip(*metrics.values(), strict=True)
    return [{name: value for name, value in zip(names, row) if value is not None} for row in columns]

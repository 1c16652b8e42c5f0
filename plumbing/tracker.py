"""--report-to: metrics for a tracker as well. metrics.jsonl is always written."""

import importlib
import os
import secrets
from pathlib import Path

from plumbing import InputError, distributed, first_line


class NoTracker:
    """What a run reports to unless it is told otherwise."""

    def log(self, step, metrics):
        """Nothing to do."""

    def close(self):
        """Nothing to do."""


class TensorBoard(NoTracker):
    """Event files in RUN/tensorboard; look at them with `tensorboard --logdir runs`."""

    def __init__(self, folder, settings, step):
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(str(folder / "tensorboard"), purge_step=step + 1)  # rows after it are made again

    def log(self, step, metrics):
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self):
        self.writer.close()


class WeightsAndBiases(NoTracker):
    """A run of the project `rlvr` (WANDB_PROJECT names another), which a resumed run goes on with."""

    def __init__(self, folder, settings, step):
        wandb = importlib.import_module("wandb")
        file = Path(folder) / "wandb.txt"
        name = file.read_text() if file.exists() else secrets.token_hex(4)
        file.write_text(name)
        project = os.environ.get("WANDB_PROJECT", "rlvr")
        self.run = wandb.init(
            project=project, id=name, name=Path(folder).name, dir=str(folder), config=settings,
            resume="allow")

    def log(self, step, metrics):
        self.run.log(metrics, step=step)

    def close(self):
        self.run.finish()


def make_tracker(name, folder, settings, step):
    """The tracker called `name`. step: the last whose row is kept. Raises InputError if it cannot start."""
    trackers = {"none": None, "tensorboard": TensorBoard, "wandb": WeightsAndBiases}
    if not trackers[name] or not distributed.is_main():
        return NoTracker()
    try:
        return trackers[name](folder, settings, step)
    except ImportError as problem:
        raise InputError(f"--report-to {name}: cannot be imported ({problem}); pip install {name}") from None
    except Exception as problem:  # no key, no network, no room: each package has its own kinds
        raise InputError(f"--report-to {name}: cannot be started ({first_line(problem)}); put that right, or "
                         "take --report-to none") from None

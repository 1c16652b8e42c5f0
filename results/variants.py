"""What the scripts of side arms share: how they add settings to a method, and see them in what they override.

    given = variants.extend(erpo, {"ra_size": (0.1, 0.1, "...")})       # before erpo.main runs
    erpo.ra_advantage = lambda group_size: given.args.ra_size           # while it runs

An override is a function put in the place of the method's own, in its module: main() calls it by that name.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def extend(module, settings):
    """Give a method's script more settings -> namespace with `args`, once they are parsed, and `run`, once it
    began.

    settings: as a script's own, {name: (with --model, tiny, meaning, permitted values if they are few)}.
    """
    given = SimpleNamespace(args=None, run=None)
    parse, Run = module.parse_settings, module.Run
    module.SETTINGS = module.SETTINGS | settings

    def parse_settings(*arguments):
        given.args = parse(*arguments)
        return given.args

    class Known(Run):
        """A run that its overrides know."""

        def __init__(self, *arguments):
            given.run = self
            super().__init__(*arguments)

    module.parse_settings, module.Run = parse_settings, Known
    return given


def choices(module, name, *more):
    """A setting of a method with more permitted values."""
    full, tiny, text, permitted = module.SETTINGS[name]
    return {name: (full, tiny, f"{text}; also {', '.join(more)}", (*permitted, *more))}

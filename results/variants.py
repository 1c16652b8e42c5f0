"""What the scripts of side arms share: how they add settings to a method, and see them in what they override.

    GIVEN = variants.Given()
    erpo.ra_advantage = lambda group_size: GIVEN.args.ra_size           # the override
    variants.extend(erpo, {"ra_size": (0.1, 0.1, "...")}, GIVEN)        # last, before erpo.main runs

An override is a function put in the place of the method's own, in its module: main() calls it by that name.
Nothing is put anywhere when a variant is imported, only when it is run.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Given(SimpleNamespace):
    """What overrides know: `args`, once they are parsed, `run`, once it began, and their own notes."""

    args = run = None


def extend(module, settings, given):
    """Give a method's script more settings, and `given` its args and its run.

    settings: as a script's own, {name: (with --model, tiny, meaning, permitted values if they are few)}.
    """
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


def choices(module, name, *more):
    """A setting of a method with more permitted values."""
    full, tiny, text, permitted = module.SETTINGS[name]
    return {name: (full, tiny, f"{text}; also {', '.join(more)}", (*permitted, *more))}

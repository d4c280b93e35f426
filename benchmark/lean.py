"""Imports for a process that does one short job: what diffusers would import only because it is installed is left out.

diffusers looks for peft, scipy and transformers and imports them where they are: half of the processor time of its
import, which clips of a testbed, drawn in seconds, would wait for. A testbed without an adapter needs none of them.
"""

from __future__ import annotations

import importlib
import sys

UNNEEDED = ("peft", "scipy", "transformers")
"""Packages that diffusers uses for adapters, released models and schedules of noise that no testbed has."""


def import_testbed() -> None:
    """Imports the testbeds' network as if those packages were not installed; afterwards they can be imported.

    diffusers remembers that it found none, so this is for processes that end with the job, not for those that go on to
    tune or to run a released model. Where diffusers is imported already nothing happens.
    """
    if "diffusers" in sys.modules:
        return
    hidden = [name for name in UNNEEDED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None stands for a package that is not there
    try:
        importlib.import_module("diffusers.models.transformers.transformer_wan")
    finally:
        for name in hidden:
            del sys.modules[name]

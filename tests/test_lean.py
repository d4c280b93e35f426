"""Jobs of a testbed import no more of diffusers than they need."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from benchmark import __main__ as cli
from benchmark import generate, lean, output_error, probe

CHECK = """
import sys
from benchmark import lean
lean.import_testbed()
print([name for name in lean.UNNEEDED if name in sys.modules])
print("diffusers.models.transformers.transformer_wan" in sys.modules)
import peft, scipy.stats, transformers
from diffusers import UniPCMultistepScheduler
"""


def test_a_testbed_is_imported_without_what_it_does_not_need_which_can_be_imported_later():
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_adapters_and_released_models_get_all_of_diffusers():
    def asked(model, tuned=False):
        return argparse.Namespace(model=model, tuned=tuned)

    assert generate.is_lean(asked("testbed-nano"))
    assert not generate.is_lean(asked("testbed-nano", tuned=True)) and not generate.is_lean(asked("hunyuanvideo"))
    assert probe.is_lean(asked("testbed-base")) and output_error.is_lean(asked("testbed-base"))


@pytest.mark.parametrize("alone", [True, False])
def test_only_a_process_that_ends_with_its_job_imports_less(alone, monkeypatch):
    called = []
    monkeypatch.setattr(lean, "import_testbed", lambda: called.append("lean"))
    monkeypatch.setattr(generate, "run", lambda asked: called.append("run") or 0)
    cell = [
        "--model",
        "testbed-nano",
        "--length",
        "1x",
        "--frames",
        "16",
        "--height",
        "48",
        "--width",
        "48",
        "--method",
        "dense",
    ]
    words = ["generate", *cell, "--inputs", "i", "--out", "o", "--record", "r"]
    assert cli.main(words, alone=alone) == 0
    assert called == (["lean", "run"] if alone else ["run"])

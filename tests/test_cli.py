"""The command line: every verb has help with an example, and what a user gets wrong is one line and exit status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.__main__ import VERBS, main, module_name

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("diffusers", "transformers", "scipy", "skimage", "matplotlib", "pandas", "av")


def shell(*words: str) -> subprocess.CompletedProcess:
    """A command in the project's folder."""
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    out = capsys.readouterr().out
    assert done.value.code == 0
    assert "example" in out and f"python -m benchmark {verb} " in out.partition("example")[2]


def test_help_lists_every_verb_and_every_verb_is_a_module(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for verb, line in VERBS.items():
        assert f"  {verb:<17}{line}\n" in out
        assert (ROOT / "benchmark" / f"{module_name(verb).replace('.', '/')}.py").is_file()


def test_every_module_with_a_verb_is_listed():
    package = ROOT / "benchmark"
    modules = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if "\ndef add_arguments" in path.read_text()
    }
    assert modules == {module_name(verb) for verb in VERBS}


def test_the_command_starts_without_heavy_imports():
    code = "import sys, benchmark.__main__; print(sorted({'torch', 'numpy', 'diffusers'} & set(sys.modules)))"
    assert shell(sys.executable, "-c", code).stdout.strip() == "[]"


def test_no_verb_imports_what_only_some_of_its_work_needs():
    code = f"""
import importlib, sys
for verb in {list(map(module_name, VERBS))}:
    importlib.import_module(f"benchmark.{{verb}}")
    for name in {HEAVY}:
        if name in sys.modules:
            sys.exit(f"{{verb}} imports {{name}}")
"""
    done = shell(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_tables_and_figures_that_draw_no_masks_start_without_torch():
    drawn = ("figure3", "figure5")
    names = sorted(path.stem for path in (ROOT / "paper_figures").glob("*.py") if path.stem not in (*drawn, "__main__"))
    code = f"""
import importlib, sys
for name in {["report.page", *names]}:
    importlib.import_module(f"paper_figures.{{name}}")
    if "torch" in sys.modules:
        sys.exit(f"{{name}} imports torch")
"""
    done = shell(sys.executable, "-c", code)
    assert len(names) > 30 and done.returncode == 0, done.stderr


def test_an_unknown_verb_is_refused_with_the_nearest(capsys):
    assert main(["colect"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "did you mean 'collect'?" in err


def test_a_traceback_is_shown_to_who_asks_for_it():
    with pytest.raises(ValueError, match="no such configuration"):
        main(["--traceback", "config", "nowhere.yaml"])


def test_a_configuration_is_checked_by_hand(capsys):
    assert main(["config", str(ROOT / "config" / "smoke.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(line.startswith("--experiment smoke ") for line in lines)
    assert main(["config", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "config: nowhere.yaml: no such configuration file\n"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("schedule={steps: 1, dense_steps: 2}", "config/smoke.yaml with --config: schedule.dense_steps=2: at most 1"),
        ("budget=0.01", "config/smoke.yaml with --config: budget=0.01: radial on testbed-nano"),
    ],
)
def test_snakemake_refuses_before_any_job_with_one_line_and_status_2(settings, line):
    snakemake = [sys.executable, "-m", "snakemake"]
    done = shell(*snakemake, "-n", "--configfile", "config/smoke.yaml", "--config", settings)
    assert done.returncode == 2
    ours = [text for text in done.stderr.splitlines() if text.startswith("config/")]
    assert len(ours) == 1 and ours[0].startswith(line)
    assert "Traceback" not in done.stderr and "Job stats" not in done.stdout + done.stderr

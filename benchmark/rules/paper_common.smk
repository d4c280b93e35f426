# What the rules of tables and figures share: which there are, and where each one's records are. Nothing here is a rule.

import os
import re
from pathlib import Path

# What all tables and figures are made with: whatever is no table or figure itself.
TARGET = r"((table|figure)(\d+(_speed|_testbed)?|_[a-z]+)|ablation_[a-z])\.py"
PAPER = [
    path.as_posix()
    for path in (*sorted(Path("paper_figures").glob("*.py")), *sorted(Path("paper_figures/published").glob("*.csv")))
    if not re.fullmatch(TARGET, path.name)
]
HELD = {}
if "speed" in config:
    TABLES, FIGURES = f"{RESULTS}/tables", f"{RESULTS}/figures"
    SPEED, SPEED_CONFIG = RESULTS, os.path.relpath(workflow.configfiles[0])
    SPEED_RECORDS = [*rules.speed.input]
    SOURCES = {"figure2": [f"{RESULTS}/operations.json"]}
    OF_TESTBED, TESTBED = (), ""
else:
    SPEED, SPEED_CONFIG = "results/reference/h100", "config/h100.yaml"
    SPEED_RECORDS = []
    HELD["speed"] = committed(SPEED)
    # The quality experiments: this experiment's own records where it has variants, else those that are committed.
    OF_TESTBED = (
        *("table1_testbed", "table2_testbed", "figure6_testbed", "figure7_testbed", "figure8", "figure_style"),
        *("ablation_a", "ablation_b", "ablation_c", "ablation_d"),
    )
    if "variants" in CONFIG:
        TESTBED_FOLDER, TESTBED_CONFIG = RESULTS, os.path.relpath(workflow.configfiles[0])
        TESTBED_TABLE = [f"{RESULTS}/records.parquet"]
        TESTBED_TABLE += [f"{RESULTS}/attention/{model}.npz" for model in CONFIG["models"]]
        TESTBED_TABLE += [f"{RESULTS}/output_error/{model}.json" for model in CONFIG["models"]]
    else:
        TESTBED_FOLDER, TESTBED_CONFIG = COMMITTED, "config/testbed.yaml"
        TESTBED_TABLE = [f"{RESULTS}/reference/testbed.parquet"] * Path(COMMITTED, "records").exists()
        HELD["testbed"] = committed(COMMITTED)
    TESTBED = f"--testbed-folder {TESTBED_FOLDER} --testbed-config {TESTBED_CONFIG}"
    if TESTBED_TABLE:
        TESTBED += f" --testbed-records {TESTBED_TABLE[0]}"
WITH_TESTBED = ("table_error",)  # of this experiment, and beside it of the quality experiments
OF_SPEED = (
    "table1_speed",
    "table2_speed",
    "table_kernels",
    "table_outside",
    "table_rates",
    "figure2",
    "figure_speedup",
    "figure_scaling",
)
for name in OF_SPEED:
    SOURCES[name] = [*SOURCES.get(name, []), SPEED_CONFIG, "paper_figures/table2_speed.py", *SPEED_RECORDS]
for name in OF_TESTBED:
    SOURCES[name] = [TESTBED_CONFIG, *(f"paper_figures/{other}.py" for other in OF_TESTBED), *TESTBED_TABLE]
# What is made of committed records alone, and so only where the configuration does not leave that out.
ALONE = () if "speed" in config else OF_SPEED if "variants" in CONFIG else (*OF_SPEED, *OF_TESTBED)
LEFT_OUT = {*ALONE} - {"figure2"} if ALONE and not CONFIG["committed"] else ()


def folders_of(wildcards):
    """The options that say where a target's records are, besides those of this experiment."""
    if wildcards.name in (*OF_TESTBED, *WITH_TESTBED):
        return TESTBED
    return f"--speed-folder {SPEED} --speed-config {SPEED_CONFIG}" if wildcards.name in OF_SPEED else ""


def held_by(wildcards):
    """SHA-256 of the committed records that a target reads; empty where they are its inputs, or it reads none."""
    kind = (
        "testbed" if wildcards.name in (*OF_TESTBED, *WITH_TESTBED) else "speed" if wildcards.name in OF_SPEED else ""
    )
    return HELD.get(kind, "")

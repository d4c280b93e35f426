#!/usr/bin/env bash
# Snakemake runs this in the project's folder, inside the new environment.
set -euo pipefail
python -m pip install -r envs/cuda.txt
python -m pip install --no-deps -r envs/no-deps.txt

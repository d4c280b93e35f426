"""The metrics, one file each; ``benchmark/metric.py`` says what a file holds and finds it by its name."""

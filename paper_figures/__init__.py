"""From records to the paper's tables and figures: one file each, ``python -m paper_figures TARGET``."""

"""The report: one page of an experiment's records, tables, figures and clips, ``python -m paper_figures.report``.

It has a folder of its own because every table and figure depends on the modules beside it: a change of the page's looks
draws none of them again.
"""

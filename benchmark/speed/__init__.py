"""The speed experiment: what a step, a generation and a step of tuning take at the paper's shapes.

``settings`` reads the experiment's configuration, ``planning`` solves the methods' knobs, ``clock`` times and watches
the GPU, ``parts``, ``steps``, ``training`` and ``ends`` measure, ``assemble`` makes the records that tables read.
"""

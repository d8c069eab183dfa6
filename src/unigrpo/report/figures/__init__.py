"""Kinds of figure, one file each; a figure of the catalogue names one in ``kind``.

A file declares ``FACTS`` (``KindFacts``), ``COLUMNS``, the columns of the figure's CSV, and ``draw(spec, sources)``,
which returns the matplotlib figure and the rows of that CSV. The workflow reads ``FACTS`` whenever it is parsed, so a
file loads matplotlib and numpy when it draws, not when it is imported.
"""

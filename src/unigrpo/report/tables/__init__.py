"""Kinds of table, one file each; a table of the catalogue names one in ``kind``.

A file declares ``FACTS`` (``KindFacts``), ``line(row, rows, sources)``, the row of the CSV with every number, ``seeds``
among them, and ``text(line, sources)``, the same as the readable columns of the Markdown and the HTML. The run and its
label come before these. It may define

* ``latex(line, sources)``: the columns that a paper prints, where they are others
* ``rows(runs, sources)``: the rows, where they are others than those of the entry
* ``notes(rows, lines, sources)``: sentences below the table that depend on what it shows

A missing number is None in the row and an empty cell in the CSV. The workflow reads ``FACTS`` whenever it is parsed, so
a file loads numpy and pandas when it is used, not when it is imported.
"""

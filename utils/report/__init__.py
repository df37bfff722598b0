"""The page of a run, report.html: one file that loads nothing.

    page.py, page.html   the page and its template
    figures.py           which numbers it shows, under which names
    curves.py            its learning curves

``python -m utils.report RUN_FOLDER`` writes it anew.
"""

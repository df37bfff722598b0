"""Pictures, drawn by Matplotlib: as PNG files, or as SVG that takes its colours from the page it is in.

style.py    figures, their palette, and how they are written
cells.py    the cells of a genotype
curves.py   learning curves
bars.py     the bar charts of the tables: memory, accuracy
"""

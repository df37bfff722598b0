"""The paper's tables from finished runs: ``python -m utils.tables RUN_FOLDER...``

layout.py       columns, Markdown for a file, aligned text for a terminal
memory.py, few_shot.py, full_task.py, storage.py
                a table each: its rows, its columns (a new one is an entry in COLUMNS), the commands that fill it
data_size.py    all of a data set, or a subset
"""

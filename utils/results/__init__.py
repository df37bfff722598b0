"""Results of runs, declared once: what the scripts write is what report, tables and compare read.

schema.py       the keys of results.json; a new figure is a field here
log_rows.py     those of the rows of logs
settings.py     the flags of args.json that are read again
checking.py     JSON against annotated types: a damaged file is refused in one sentence
row_log.py      a log that is appended to, and read again by --resume
run_files.py    all files of a run's folder; the runs below a folder
outcomes.py     what a method's runs came to, and paired differences to another's
intervals.py    the mean and its 95 % interval
examples.py     images of the first tasks, for the report
published.py    published figures and sizes
"""

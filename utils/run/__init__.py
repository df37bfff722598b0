"""A run as a process and a folder.

start.py          the first lines of a script: Ctrl-C, memory limits, standard streams, before PyTorch is imported
cli.py            the parser, the types of flags, how a script ends: one sentence and an exit status
run_directory.py  the folder of a run (--path): its lock, its settings, --resume
files.py          files that are written whole or not at all, and looked at before they are read
progress.py       the progress bar
device.py         the CPU or the GPU
ranks.py          several processes that do a part each
torchrun.py       what torchrun says to them
"""

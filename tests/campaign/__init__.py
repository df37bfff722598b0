"""Hostile use of the scripts, in numbers: what holds, and how to see again what does not. Run by hand.

    python -m tests.campaign [--only kills double interrupts flags files memory] [--seed N] [--times NUMBER]

__main__.py   the command and its table        judging.py    what a good end of a process is
runs.py       tiny runs of each kind           kills.py      SIGKILL, Ctrl-C, two processes in one folder
flags.py      command lines from a grammar     mutations.py  damaged files of every kind
memory.py     limits of ulimit
"""

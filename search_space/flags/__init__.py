"""The command lines. No module here imports torch, so that --help and a refusal take no time.

declare     what a flag is, said once: its type, bounds, help, whether a resumed run may change it, whose task it is for
shared      the flags of both scripts, and the published presets
tfml        the flags of tfml.py
onnas       the flags of onnas.py, and which of them go together
own_images  of these, those of a task of one's own images
"""

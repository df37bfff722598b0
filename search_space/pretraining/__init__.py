"""Supervised pre-training of the meta-cell, before meta-training.

training   one optimisation step: tied cells, all classes of meta-training in one head
loop       the epochs of a run: progress, checkpoints, log
"""

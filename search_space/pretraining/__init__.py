"""Supervised pre-training of the meta-cell, before meta-training.

tied_training  what every pre-training has: tied cells, epochs, a state to go on from
training       one optimisation step: all classes of meta-training in one head (search_space/deciding has another kind)
loop           the epochs of a run: progress, checkpoints, log
"""

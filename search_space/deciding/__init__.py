"""Training that decides: alpha and beta move apart, and the weights learn to work without the other candidates.

training      tfml.py --decide 1: a step of it, in three phases (its epochs: search_space/pretraining/loop.py)
paths         one path through the cells, drawn from alpha and beta, with a gradient for them
work          the multiply-accumulates that a network drawn so is expected to take
class_means   the loss: telling a batch's classes apart by the means of the others' features
"""

"""Memory, worked out before any real step: steps are run on tensors without storage, under the same meter as real ones.

size      what a task holds in memory
predict   the peaks of a search
derived   the peaks of training a derived network, and of using it
fit       the fastest way to search or to train that fits a budget
"""

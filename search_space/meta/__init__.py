"""Training tasks of a meta-batch, adapted side by side.

batched_search   the search of all of them in the calls of one
batched_adam     its optimizer
"""

"""What TensorBoard shows of searches.

search_record.py    takes down the steps of one task's search, in plain numbers
figures.py          pictures of a search: its steps, alpha and beta, what was chosen, what was expected
board.py            writes scalars and pictures of few-shot tasks, of meta-tests, of a full task's epochs
"""

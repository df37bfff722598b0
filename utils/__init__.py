"""What is no part of the method: it knows nothing of the networks or of the search.

run/        a run as a process and a folder          data/     images, and the batches and tasks made of them
results/    what a run writes, declared once         report/   a run as a page (python -m utils.report)
pictures/   cells, charts, TensorBoard's events      tables/   many runs as tables (python -m utils.tables)
memory.py   the meter of live tensor bytes           draws.py  random draws that depend on nothing but their purpose
export.py   a network as .onnx, .int8.onnx (int8.py) and .pt2 (export_path.py); exported.py: how such files classify
classify.py an exported network on photographs, without PyTorch (python -m utils.classify)
compare.py  methods on the same tasks (python -m utils.compare)
errors.py   errors whose text is meant for the user
"""

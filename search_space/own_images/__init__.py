"""A few images of each class in, a classifier out: one few-shot task of the user's own.

search          onnas.py --support: adapts, says what to expect, classifies, exports
classify_later  onnas.py --adapted: classifies with what an earlier run adapted
files           what both write of the files that they classify

Into --path: adapted.pt (to classify later), predictions.csv (a line a file: its class, the probability of every class),
results.json, args.json, photographs.jsonl (what the report shows) and report.html. With --adapted the last is left to
``python -m utils.report``, whose pictures take more memory than classifying.
"""

#!/usr/bin/env bash
# Every path of the project on a GPU, in one call: what ran, how fast, in how much memory.
#
#     tests/benchmarks/gpu.sh [SECONDS]
#
# Small runs on drawn glyphs and images first, each of at most LIMIT seconds, those whose speed counts one by one. Then,
# until SECONDS (default 540) have passed since the start, the published meta-training of every data set that data/
# holds; a later call goes on with it, here or elsewhere. Everything is in runs/gpu/; a line for each run is printed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${PYTHON:-python3}" # one whose PyTorch sees the GPU
device="${DEVICE:-cuda}"
until=$((SECONDS + ${1:-540}))
limit="${LIMIT:-150}"
runs="$PWD/runs/gpu"
mkdir -p "$runs"

check() { # NAME COMMAND...: runs it within the limit, and prints how it ended
    local name=$1 started=$SECONDS status=0
    shift
    timeout "$limit" "$python" "$@" --device "$device" --path "$runs/$name" --resume >"$runs/$name.log" 2>&1 || status=$?
    "$python" - "$runs/$name" "$name" $status $((SECONDS - started)) <<'PYTHON'
import json, sys
from pathlib import Path

folder, name, status, seconds = Path(sys.argv[1]), *sys.argv[2:]
figures = {}
for file in (folder / "metrics.jsonl", folder / "results.json"):
    if file.exists() and file.read_text().strip():
        figures |= json.loads(file.read_text().strip().splitlines()[-1] if file.suffix == ".jsonl" else file.read_text())
shown = ("tasks_per_second", "seconds_per_step", "peak_memory_mib", "train_accuracy", "accuracy", "derived_accuracy")
words = [f"{key} {figures[key]:.4g}" for key in shown if isinstance(figures.get(key), (int, float))]
print(f"{name}: {'ok' if status == '0' else 'FAILED (' + status + ')'}, {seconds} s; {', '.join(words)}", flush=True)
PYTHON
    if [ $status -ne 0 ]; then tail -n 3 "$runs/$name.log"; fi
}

task=(--dataset synthetic --n 5 --k 5 --q 15)
training=("${task[@]}" --meta_epochs 3 --warm_up_epochs 2 --eval_freq 3 --eval_epochs 2)
search=("${task[@]}" --meta_cell "$runs/tfml/meta_cell.pt" --eval_epochs 2 --batch_size 25)
# A small image folder for the full task: colour, of two sizes.
"$python" - "$runs/images" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

draw = np.random.default_rng(0)
for part, count in (("train", 32), ("test", 8)):
    for label in range(3):
        folder = Path(sys.argv[1], part, f"class{label}")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = draw.integers(0, 90, (84, 84 + 8 * (number % 2), 3), dtype=np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(folder / f"{number}.png")
PYTHON
full=(--task full --dataset imagefolder --data_path "$runs/images" --epochs 2 --warm_up_epochs 1 --batch_size 32 --derived_epochs 1)

# Meta-training at the published settings, one by one: speed and memory.
check tfml tfml.py "${training[@]}"
check tfml_tf32 tfml.py "${training[@]}" --tf32 1
# The rest side by side: that it runs.
check tfml_compile tfml.py "${training[@]}" --compile 1 &
check tfml_separate tfml.py "${training[@]}" --cells separate --tasks_at_once 1 &
check onnas onnas.py "${search[@]}" --split_num 5 &
check onnas_leanest onnas.py "${search[@]}" --split_num 5 --schedule leanest --transductive 0 &
check full onnas.py "${search[@]}" --search full &
check darts onnas.py "${search[@]}" --search darts --step_by_step 0 --unrolled 1 &
check full_task onnas.py "${full[@]}" &
check full_task_inherited onnas.py "${full[@]}" --search full --inherit_weights 1 --auxiliary 1 &
wait

for dataset in miniimagenet omniglot; do
    if [ -d "data/$dataset" ] && [ $SECONDS -lt $until ]; then
        limit=$(((until - SECONDS) / 2)) check "published_$dataset" tfml.py --dataset "$dataset" --n 5 --k 5 --q 15 \
            --tasks_at_once 10 --eval_freq 100 --eval_epochs 5
    fi
done

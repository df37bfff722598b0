#!/usr/bin/env bash
# From nothing to a result in about three minutes (after installing), on two CPU cores and without any data: trains a
# small meta-cell, searches the same 20 new tasks from it and from an untrained one, then classifies image files with it.
#
# It can be stopped and started again at any time: it goes on where it was, and once done only prints its table.
set -euo pipefail
if [ $# -gt 0 ]; then
    echo "quickstart.sh takes no arguments: tfml.py and onnas.py take settings of your own." >&2
    exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")"
source utils/environment.sh

# A net this small runs as fast on one thread as on several.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
runs=runs/quickstart

network=(
    --layers 2               # cells
    --reduction_layers 0 1   # both of stride 2
    --nodes 2                # nodes of a cell
    --init_channels 8        # channels of a node
)
training=(
    --meta_epochs 100        # updates of the meta-cell
    --warm_up_epochs 75      # the first of them adapt weights only, not alpha and beta
    --meta_batch_size 5      # tasks of a meta-epoch
    --n_train 5              # support images a class
    --batch_size 25          # all of them at once
    --task_train_steps 4     # epochs over them
    --drop_path_prob 0       # too short a training to need it
    --eval_epochs 5          # tasks of the meta-test at its end
)
task=(
    --dataset synthetic      # glyphs drawn on the fly, of classes not trained on when testing
    --n 5                    # ways
    --k 5                    # shots
    --q 15                   # query images a class
    --w_lr 0.01              # learning rate of the weights on a task
    --test_task_train_steps 5  # epochs over a test task's support set
)
search=(
    --eval_epochs 20         # test tasks
    --batch_size 25          # the whole support set
)

echo "1/4 Two-Fold Meta-Learning of a small meta-cell"
"$python" tfml.py "${task[@]}" "${network[@]}" "${training[@]}" --path $runs/trained --name trained --resume
"$python" tfml.py "${task[@]}" "${network[@]}" --meta_epochs 0 --path $runs/untrained --name untrained --resume

for meta_cell in trained untrained; do
    echo "2/4 On-device search of 20 new tasks from the $meta_cell meta-cell"
    "$python" onnas.py "${task[@]}" "${search[@]}" --meta_cell $runs/$meta_cell/meta_cell.pt \
        --path $runs/search_$meta_cell --name $meta_cell --resume
done

echo "3/4 What came of it"
"$python" -m utils.quickstart_table --trained $runs/search_trained --untrained $runs/search_untrained \
    --tfml $runs/trained

echo "4/4 The same for image files of your own: here 5 drawings of each of 5 classes, and 50 others to classify"
"$python" -m utils.data.drawings $runs/drawings
"$python" onnas.py --meta_cell $runs/trained/meta_cell.pt --support $runs/drawings/support \
    --query $runs/drawings/query --path $runs/own_images --resume

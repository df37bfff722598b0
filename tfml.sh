#!/usr/bin/env bash
# Two-Fold Meta-Learning with the published settings. Further flags are appended, and a later flag wins:
#
#     ./tfml.sh --resume
#     ./tfml.sh --dataset omniglot --hp_setting og_metanas --path runs/tfml_omniglot
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source utils/environment.sh

flags=(
    --path runs/tfml         # everything is written here, meta_cell.pt among it
    --dataset miniimagenet   # tasks of 84x84 colour images; prepared in data/
    --n 5                    # ways: classes of a task
    --k 5                    # shots: support images a class of a test task
    --q 1                    # query images a class, as published; 15 is what the field reports with
    --hp_setting in_metanas  # preset: learning rates, batch sizes and support-set epochs for miniImageNet
    --meta_epochs 30000      # updates of the meta-cell, each from the preset's 10 tasks
    --warm_up_epochs 15000   # the first of them adapt weights only, not alpha and beta
    --eval_freq 1500         # meta-epochs from one meta-test to the next
    --eval_epochs 100        # tasks of a meta-test
    --drop_path_prob 0.2     # of each candidate's output, for each image
    --layers 4               # cells
    --reduction_layers 1 3   # those of stride 2, counted from 0
    --nodes 3                # nodes of a cell
    --init_channels 28       # channels of a node
    --seed 21                # of every random draw
)
exec "$python" tfml.py "${flags[@]}" "$@"

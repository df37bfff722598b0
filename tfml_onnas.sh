#!/usr/bin/env bash
# On-device search with the published settings, from the meta-cell of tfml.sh. Further flags are appended, and a later
# flag wins:
#
#     ./tfml_onnas.sh --resume
#     ./tfml_onnas.sh --meta_cell runs/tfml_omniglot/meta_cell.pt --dataset omniglot --hp_setting og_metanas \
#         --path runs/onnas_omniglot
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source utils/environment.sh

flags=(
    --meta_cell runs/tfml/meta_cell.pt  # written by tfml.sh
    --path runs/onnas                   # everything is written here
    --dataset miniimagenet              # tasks of 84x84 colour images; prepared in data/
    --n 5                               # ways: classes of a task
    --k 5                               # shots: support images a class
    --q 1                               # query images a class, as published; 15 is what the field reports with
    --eval_epochs 100                   # test tasks
    --hp_setting in_metanas             # preset: learning rates and batch size for miniImageNet
    --test_task_train_steps 10          # epochs over a task's support set
    --search onnas                      # only chosen candidates and edge pairs get gradient
    --sampleno 2                        # candidates of an edge that do
    --alpha_expect 1                    # chosen by their expected final value
    --beta_sampling 1                   # one edge pair a node, chosen in the same way
    --split_num 5                       # micro-batches of a batch, gradients accumulated
    --step_by_step 1                    # back-propagation a cell and a candidate at a time
    --seed 21                           # of every random draw
)
exec "$python" onnas.py "${flags[@]}" "$@"

#!/usr/bin/env bash
# On-device search with the published settings, from the meta-cell of tfml.sh; until that has been run, and with --dataset
# omniglot, from one that comes with this repository. Further flags are appended, and a later flag wins:
#
#     ./tfml_onnas.sh --dataset omniglot --download
#     ./tfml_onnas.sh --resume
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
search_only=1 # with --report 0 --tensorboard 0, and the data decoded
source utils/environment.sh

flags=(
    --meta_cell runs/tfml/meta_cell.pt  # written by tfml.sh
    --path runs/onnas                   # everything is written here
    --dataset miniimagenet              # tasks of 84x84 colour images; prepared in data/
    --n 5                               # ways: classes of a task
    --k 5                               # shots: support images a class
    --q 1                               # query images a class, as published; 15 is what the field reports with
    --eval_epochs 100                   # test tasks
    --test_task_train_steps 10          # epochs over a task's support set; the data set's preset has the batch size
    --search onnas                      # only chosen candidates and edge pairs get gradient
    --sampleno 2                        # candidates of an edge that do
    --alpha_expect 1                    # chosen by their expected final value
    --beta_sampling 1                   # one edge pair a node, chosen in the same way
    --split_num 5                       # micro-batches of a batch, gradients accumulated
    --step_by_step 1                    # back-propagation a cell and a candidate at a time
    --seed 21                           # of every random draw
)
omniglot=(
    --meta_cell checkpoints/omniglot_decided.pt  # checkpoints/README.md says what it is
    --path runs/onnas_omniglot
    --q 15
    --split_num 2                # micro-batches of 5: of a batch's 10 images BN sees 5 at once
    --test_task_train_steps 5    # epochs, of which
    --found_epochs 0.4           # the last two train the found network alone
    --w_lr 0.0001                # the meta-cell classifies by class means already: small steps
    --transductive 0             # image by image
    --seed 22                    # other tasks, of the same characters, than 21's
)
miniimagenet=(
    --meta_cell checkpoints/miniimagenet.pt  # checkpoints/README.md says what it is
    --path runs/onnas_miniimagenet
    --q 15
    --test_task_train_steps 3              # it was trained to tell classes apart, not to adapt for long
    --w_lr 0.0005                          # and with small steps
)
case " $* " in
    *" --dataset omniglot "* | *" --dataset=omniglot "*)
        flags+=("${omniglot[@]}")
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # as the README's figures: others round differently
        ;;
    *)
        if [ ! -e runs/tfml/meta_cell.pt ]; then flags+=("${miniimagenet[@]}"); fi
        ;;
esac
exec "$python" onnas.py "${flags[@]}" "$@"

#!/usr/bin/env bash
# On-device search of a full data set with the published settings, then the training of the network that was found.
# Further flags are appended, and a later flag wins:
#
#     ./onnas_full_task.sh --resume
#     ./onnas_full_task.sh --download
#     ./onnas_full_task.sh --dataset imagefolder --data_path photographs --input_size 64 --path runs/photographs
#     ./onnas_full_task.sh --genotype FILE --path runs/given     # trains that one's network; no search
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source utils/environment.sh

flags=(
    --task full              # one data set, not many small tasks
    --path runs/full_task    # everything is written here
    --dataset cifar10        # 32x32 colour images of 10 classes; from data/, or --download
    --search onnas           # only chosen candidates and edge pairs get gradient
    --epochs 50              # of the search
    --warm_up_epochs 25      # the first of them train weights only
    --batch_size 64          # images of a batch, of each half of the training set
    --w_lr 0.025             # learning rate of the weights, with cosine decay
    --alpha_lr 3e-4          # that of alpha and beta
    --sampleno 2             # candidates of an edge that get gradient
    --alpha_expect 1         # chosen by their expected final value
    --beta_sampling 1        # one edge pair a node, chosen in the same way
    --split_num 5            # micro-batches of a batch, gradients accumulated
    --step_by_step 1         # back-propagation a cell and a candidate at a time
    --layers 4               # cells, of 3 nodes, or of as many as a --genotype has
    --reduction_layers 1 3   # those of stride 2, counted from 0
    --init_channels 28       # channels of a node
    --derived_epochs 100     # of training the network that was found
    --seed 21                # of every random draw
)
exec "$python" onnas.py "${flags[@]}" "$@"

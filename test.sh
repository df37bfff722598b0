#!/usr/bin/env bash
# Checks style, then runs the tests; arguments go to pytest:
#
#     ./test.sh
#     ./test.sh tests/models -k fold
#
# ONNAS_DATA=FOLDER, with the original archives in omniglot/ and miniimagenet/, runs the tests on real data as well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source utils/environment.sh

"$python" -m ruff check
"$python" -m ruff format --check
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # the nets are small: two processes of one thread are faster
"$python" -m pytest -n 2 --dist loadfile -rs "$@" # -rs: names what is skipped, and why

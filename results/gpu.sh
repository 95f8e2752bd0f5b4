#!/usr/bin/env bash
# Uses a GPU that is at hand for a few minutes: the GPU tests, the bench, then as much of the comparison on CIFAR-100 as fits.
#
#   bash results/gpu.sh                                             # ten minutes
#   MINUTES=55 bash results/gpu.sh --data-dir ~/data/cifar100      # flags are passed to train.py
#
# Nothing is lost at the end of the time: runs are stopped and saved, and the same command resumes them. Tests and bench
# are left out once they have passed on this kind of card (results/gpu/<card>.txt). The rows in OUT are to be committed.
[ -n "${BASH_VERSION-}" ] || { echo "$0: start it with bash" >&2 && exit 2; }
set -euo pipefail

began=$SECONDS
cd "$(dirname "$0")/.."
MINUTES="${MINUTES-10}"
case "$MINUTES" in
    "" | *[!0-9]* | 0*)
        echo "gpu.sh: MINUTES must be a whole number, 1 or more, got '$MINUTES'" >&2
        exit 2
        ;;
esac
export EPOCHS="${EPOCHS-45}" OUT="${OUT-results/cifar100-${EPOCHS-45}ep}"
case "$OUT" in results/cifar100-45ep | results/cifar100-5ep) export RECIPE="${RECIPE---lr 0.2}" ;; esac # that of the rows there

card="$(python -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-") if torch.cuda.is_available() else "")')"
if [ -z "$card" ]; then
    echo "gpu.sh: PyTorch finds no GPU here: start it where nvidia-smi shows one" >&2
    exit 2
fi
seen="results/gpu/$card.txt"
if [ ! -e "$seen" ]; then
    mkdir -p results/gpu
    python -m pytest -m gpu
    python tests/bench_gpu.py --no-compile | tee "$seen.tmp"
    mv "$seen.tmp" "$seen"
fi
left=$(((60 * MINUTES - (SECONDS - began)) / 60))
if [ "$left" -lt 1 ]; then
    echo "gpu.sh: tests and bench took all of MINUTES=$MINUTES; the same command goes on with the comparison"
    exit
fi
MINUTES="$left" exec bash compare.sh --val-size 0 "$@"

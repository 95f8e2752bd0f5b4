#!/usr/bin/env bash
# Trains the ResNet at several widths, every method and some combinations, over seeds with one recipe, then writes the report.
#
#   bash compare.sh                                          # CIFAR-100 from the hub, 100 epochs: hours on one GPU
#   EPOCHS=5 DATASET=shapes100 SEEDS="0 1" bash compare.sh   # about two hours on two CPU cores
#   JOBS=8 bash compare.sh                                   # one run on each of 8 GPUs, side by side
#   NPROC=8 bash compare.sh --amp bf16                       # each run on 8 GPUs; flags go on to train.py
#
# Finished runs are skipped and unfinished ones resumed: run the same command again after an interruption. A failed run is
# reported at the end (exit code 1) and does not stop the others. PLAN=1 only lists what would be trained. RUNS replaces the
# list: architectures with settings behind colons, such as RUNS="resnet eca_resnet:eca.kernel_size=5".
set -euo pipefail
cd "$(dirname "$0")"

METHODS="coatnet convnext cspnet eca ghostnet gmlp hornet lsknet mixer resnest segnext"
COMBINATIONS="eca_ghostnet_resnet convnext_eca_resnet cspnet_eca_resnet eca_resnest_resnet"
ARCHS="${ARCHS:-$(printf '%s_resnet ' $METHODS) $COMBINATIONS}"
WIDTHS="${WIDTHS:-8 12 24 32}" # of the widening curve, beside the baseline's 16
RUNS="${RUNS:-resnet $ARCHS $(printf 'resnet:resnet.width=%s ' $WIDTHS)}"
SEEDS="${SEEDS:-0 1 2}"
EPOCHS="${EPOCHS:-100}"
DATASET="${DATASET:-cifar100}"
OUT="${OUT:-runs/compare}"
NPROC="${NPROC:-1}" # processes of one run
JOBS="${JOBS:-1}"   # runs side by side, each on a GPU of its own

folder() { echo "$OUT/${1//:/-}-seed$2"; } # of a run and a seed

train() { # a run, a seed, the GPU's number, flags for train.py
    local launch=(python) parts flags=(--epochs "$EPOCHS" --dataset "$DATASET" --seed "$2")
    local name
    name="$(basename "$(folder "$1" "$2")")"
    IFS=: read -ra parts <<<"$1"
    for setting in "${parts[@]:1}"; do flags+=(--set "$setting"); done
    if [ "$NPROC" -gt 1 ]; then launch=(torchrun --standalone --nproc_per_node "$NPROC"); fi
    if [ "$JOBS" -gt 1 ]; then export CUDA_VISIBLE_DEVICES="$3"; fi
    "${launch[@]}" train.py --arch "${parts[0]}" "${flags[@]}" --out "$OUT" --name "$name" "${@:4}"
}

# The plan.
waiting=()
n_runs=0
for seed in $SEEDS; do # a whole comparison with one seed comes first
    for run in $RUNS; do
        n_runs=$((n_runs + 1))
        if [ ! -e "$(folder "$run" "$seed")/result.json" ]; then waiting+=("$run $seed"); fi
    done
done
echo "$n_runs runs in $OUT, $((n_runs - ${#waiting[@]})) of them finished"
if [ -n "${PLAN:-}" ]; then # PLAN=1: only say what would be trained
    printf '%s\n' "${waiting[@]}"
    exit
fi

# Speeds, measured side by side, because trainings on a shared machine do not time each other fairly.
# shellcheck disable=SC2086
python -m models.speed $RUNS --out "$OUT/cost.json" "$@"
images=50000
if [ "$DATASET" = shapes100 ]; then images=20000; fi
python -m models.speed "${waiting[@]% *}" --left "$OUT/cost.json" --images "$((EPOCHS * images / NPROC / JOBS))"

# The trainings: worker g of JOBS takes every JOBS-th of them, on GPU g.
failures="$(mktemp)"
trap 'rm -f "$failures"' EXIT
for ((worker = 0; worker < JOBS; worker++)); do
    for ((i = worker; i < ${#waiting[@]}; i += JOBS)); do
        read -r run seed <<<"${waiting[i]}"
        train "$run" "$seed" "$worker" "$@" || echo "$run with seed $seed" >>"$failures"
    done &
done
wait

python report.py "$OUT" --out "$OUT/report" || echo "report" >>"$failures"
if [ -s "$failures" ]; then
    echo "failed: $(paste -sd ';' "$failures")" >&2
    exit 1
fi

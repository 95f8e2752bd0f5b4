#!/usr/bin/env bash
# Trains a list of networks over seeds with one recipe, then writes the report. PRESET names the list:
#
#   methods    the ResNet at several widths, every method and some combinations (the default)
#   depth      plain networks against residual ones of the same layers: does depth hurt without shortcuts?
#   classics   the networks that everyone knows
#   vit        a vision transformer with published weights and from scratch, and a smaller one of its own
#   transfer   published weights against none; fine-tuned, and with a frozen backbone
#   recipe     not networks but optimizers and learning rates, on the validation split
#   cost       trains nothing: parameters, MACs, speed and memory of all our networks at the image sizes in SIZES
#
#   bash compare.sh                                          # CIFAR-100 from the hub, 100 epochs: hours on one GPU
#   EPOCHS=5 DATASET=shapes100 SEEDS="0 1" bash compare.sh   # about two hours on two CPU cores
#   JOBS=8 bash compare.sh                                   # one run on each of 8 GPUs, side by side
#   NPROC=8 bash compare.sh --amp bf16                       # each run on 8 GPUs; flags go on to train.py
#   PRESET=cost SIZES=32 bash compare.sh --batch-size 16     # minutes on two CPU cores
#
# Finished runs are skipped and unfinished ones resumed: run the same command again after an interruption. Ctrl-C and SIGTERM
# stop the runs at hand behind a step. OUT is their folder (runs/compare, or runs/ and the preset's name); one that holds runs
# of another recipe is refused. A failed run is reported at the end (exit code 1) and does not stop the others. PLAN=1 only
# lists what would be trained. ARCHS and WIDTHS replace parts of the methods' list, and RUNS any list: architectures with
# knobs and flags of their own behind colons, such as
# RUNS="resnet eca_resnet:eca.kernel_size=5 vit:--pretrained:--freeze=backbone". RECIPE replaces a preset's flags for all runs.
set -euo pipefail
cd "$(dirname "$0")"

PRESET="${PRESET:-methods}"
REPORT=() # flags for report.py
METHODS="coatnet convnext cspnet eca ghostnet gmlp hornet lsknet mixer resnest segnext"
COMBINATIONS="eca_ghostnet_resnet convnext_eca_resnet cspnet_eca_resnet eca_resnest_resnet"
CLASSICS="linear lenet alexnet vgg16 vgg19 googlenet resnet resnet18 multiscale_resnet18 resnet34 resnet50"
case "$PRESET" in
    methods)
        ARCHS="${ARCHS:-$(printf '%s_resnet ' $METHODS) $COMBINATIONS}"
        WIDTHS="${WIDTHS:-8 12 24 32}" # of the widening curve, beside the baseline's 16
        runs="resnet $ARCHS $(printf 'resnet:resnet.width=%s ' $WIDTHS)"
        recipe=""
        ;;
    depth)
        runs="plain20 plain32 plain44 plain56 resnet resnet32 resnet44 resnet56"
        recipe=""
        ;;
    classics)
        runs="$CLASSICS"
        recipe=""
        ;;
    vit)
        runs="vit vit:--pretrained vit:vit.depth=6:vit.width=96 resnet"
        recipe="--optimizer adamw --lr 5e-4"
        ;;
    transfer)
        runs="$(for arch in vit torchvision:resnet18; do echo "$arch $arch:--pretrained $arch:--pretrained:--freeze=backbone"; done)"
        recipe="--optimizer adamw --lr 5e-4 --image-size 64"
        ;;
    recipe)
        sgd="$(printf -- '--lr=%s ' 0.2 0.5 1)"
        adamw="$(printf -- '--optimizer=adamw:--lr=%s ' 2e-3 5e-3 1e-2)"
        runs="$(for arch in resnet convnext_resnet hornet_resnet coatnet_resnet; do printf "$arch:%s " $sgd $adamw; done)"
        recipe=""
        REPORT=(--recipes)
        ;;
    cost)
        runs="$CLASSICS resnet101 resnet152 resnet32 resnet44 resnet56 resnet110 vit"
        runs="$runs plain20 plain32 plain44 plain56 plain110 plain18 plain34"
        runs="$runs $(printf '%s_resnet ' $METHODS mscan lskblock multiscale se)"
        recipe=""
        ;;
    *)
        echo "PRESET: no list '$PRESET'; choose from methods depth classics vit transfer recipe cost" >&2
        exit 2
        ;;
esac
RUNS="${RUNS:-$runs}"
read -ra RECIPE <<<"${RECIPE-$recipe}"
SEEDS="${SEEDS:-0 1 2}"
EPOCHS="${EPOCHS:-100}"
DATASET="${DATASET:-cifar100}"
if [ "$PRESET" = methods ]; then OUT="${OUT:-runs/compare}"; fi
OUT="${OUT:-runs/$PRESET}"
SIZES="${SIZES:-32 224}" # of PRESET=cost, in pixels
NPROC="${NPROC:-1}" # processes of one run
JOBS="${JOBS:-1}"   # runs side by side, each on a GPU of its own: of CUDA_VISIBLE_DEVICES, or the first ones
IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES-$(seq -s , 0 $((JOBS - 1)))}"

set -- "${RECIPE[@]}" "$@" # the last flag counts, so that the user's go before the preset's

folder() { # of a run and a seed: eca_resnet-eca.kernel_size=5-seed0, vit-pretrained-seed0
    local name="${1//:--/-}"
    echo "$OUT/${name//[:\/]/-}-seed$2"
}

train() { # a run, a seed, the worker's number, flags for train.py
    local launch=(python) parts arch flags=(--epochs "$EPOCHS" --dataset "$DATASET" --seed "$2")
    local name
    name="$(basename "$(folder "$1" "$2")")"
    IFS=: read -ra parts <<<"$1"
    arch="${parts[0]}"
    for part in "${parts[@]:1}"; do
        case "$part" in
            --*) flags+=("$part") ;;
            *=*) flags+=(--set "$part") ;;
            *) arch="$arch:$part" ;; # torchvision:NAME
        esac
    done
    if [ "$NPROC" -gt 1 ]; then launch=(torchrun --standalone --nproc_per_node "$NPROC"); fi
    if [ "$JOBS" -gt 1 ] && [ ${#gpus[@]} -gt 0 ]; then export CUDA_VISIBLE_DEVICES="${gpus[$3 % ${#gpus[@]}]}"; fi
    "${launch[@]}" train.py --arch "$arch" "${flags[@]}" --out "$OUT" --name "$name" "${@:4}"
}

if [ "$PRESET" = cost ]; then
    if [ -n "${PLAN:-}" ]; then
        printf '%s\n' "costs at $SIZES pixels, in $OUT" $RUNS
        exit
    fi
    # shellcheck disable=SC2086
    python speed.py $RUNS --costs "$OUT/costs.json" --image-sizes $SIZES "$@"
    exec python report.py "$OUT/costs.json"
fi

# The plan.
waiting=()
finished=()
for seed in $SEEDS; do # a whole comparison with one seed comes first
    for run in $RUNS; do
        if [ -e "$(folder "$run" "$seed")/result.json" ]; then finished+=("$run $seed"); else waiting+=("$run $seed"); fi
    done
done
echo "$((${#waiting[@]} + ${#finished[@]})) runs in $OUT, ${#finished[@]} of them finished"
if [ -n "${PLAN:-}" ]; then # PLAN=1: only say what would be trained
    printf '%s\n' "${waiting[@]}"
    exit
fi

# A finished run is left alone by train.py if it is of this recipe, and refused if not.
if [ "${#waiting[@]}" -gt 0 ] && [ "${#finished[@]}" -gt 0 ]; then
    read -r run seed <<<"${finished[0]}"
    if ! (train "$run" "$seed" 0 "$@"); then
        echo "compare.sh: $OUT cannot be continued with these settings: correct them, or choose another OUT" >&2
        exit 2
    fi
fi

# Speeds, measured side by side, because trainings on a shared machine do not time each other fairly. They stay as they
# are where nothing is left to train: this may be another machine.
if [ "${#waiting[@]}" -gt 0 ] || [ ! -e "$OUT/cost.json" ]; then
    # shellcheck disable=SC2086
    python speed.py $RUNS --out "$OUT/cost.json" "$@"
fi
images=50000
if [ "$DATASET" = shapes100 ]; then images=20000; fi
python speed.py "${waiting[@]% *}" --left "$OUT/cost.json" --images "$((EPOCHS * images / NPROC / JOBS))"

# The trainings: each of JOBS workers takes every JOBS-th of them, on a GPU of its own. It is a process group of its own (set
# -m), which stop() signals: a script's background processes are deaf to Ctrl-C, and would begin their next run.
# Ctrl-Z holds the script alone.
failures="$(mktemp)"
trap 'rm -f "$failures"' EXIT
workers=()
stop() { # an exit code
    kill -TERM -- "${workers[@]/#/-}" 2>/dev/null || true
    wait
    exit "$1"
}
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM
set -m
for ((worker = 0; worker < JOBS; worker++)); do
    (
        set +m # its trainings stay in its group
        trap 'exit 143' TERM
        for ((i = worker; i < ${#waiting[@]}; i += JOBS)); do
            read -r run seed <<<"${waiting[i]}"
            train "$run" "$seed" "$worker" "$@" || echo "$run with seed $seed" >>"$failures"
        done
    ) &
    workers+=($!)
done
set +m
wait
trap - HUP INT TERM

python report.py "$OUT" "${REPORT[@]}" || echo "report" >>"$failures"
if [ -s "$failures" ]; then
    echo "failed: $(paste -sd ';' "$failures")" >&2
    exit 1
fi

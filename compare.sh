#!/usr/bin/env bash
# Trains a list of networks over seeds with one recipe, then writes the report. PRESET names the list:
#
#   methods    the ResNet at five widths, twelve methods and four combinations (the default)
#   depth      plain networks against residual ones of the same depth: does depth hurt without shortcuts?
#   classics   a linear classifier, LeNet, AlexNet, VGG, GoogLeNet and ResNets
#   vit        a vision transformer with published weights and without, a smaller one (depth 6, width 96), and the ResNet
#   transfer   published weights against random ones; fine-tuned, and with a frozen backbone
#   recipe     optimizers and learning rates for four networks, compared on the validation split
#   tuning     the same search for each network of the methods' list, on the validation split: all recipes with the first
#              of SEEDS, then the best two with all SEEDS. TUNED=runs/tuning then gives each architecture its own winner
#   cost       trains nothing: parameters, MACs, speed, memory and the latency of one image, at the sizes in SIZES
#
#   bash compare.sh                                          # CIFAR-100 from the hub, 100 epochs: hours on one GPU
#   EPOCHS=5 DATASET=shapes100 SEEDS="0 1" bash compare.sh   # several hours on two CPU cores
#   JOBS=8 bash compare.sh                                   # a network on each of 8 GPUs, side by side
#   NPROC=8 bash compare.sh --amp bf16                       # each run on 8 GPUs; flags are passed to train.py
#   MINUTES=55 bash compare.sh                               # stops and saves in time; the same command resumes
#   PRESET=cost SIZES=32 bash compare.sh --batch-size 16     # minutes on two CPU cores
#   sbatch --array=0-20 --gpus=1 --requeue --signal=B:TERM@90 --open-mode=append compare.sh  # on a Slurm cluster
#
# Finished runs are skipped and unfinished ones resumed: run the same command again after an interruption. Ctrl-C and SIGTERM
# stop the current runs after the step in progress. A failed run is reported at the end (exit code 1) and does not stop the
# others. Several of these commands may share one OUT, on any machines that see it: each takes the next run that nobody holds.
#
# Settings are environment variables. Leave one out for its default; NAME= sets it to nothing. compare.py does the work.
#
#   PLAN=1     only lists what would be trained
#   OUT        the folder of the runs (default runs/compare, for other presets runs/ and the preset's name); refused if it
#              holds one of these runs with another recipe, or any run of another budget
#   SEEDS      default "0 1 2"
#   EPOCHS     default 100
#   DATASET    default cifar100, or what --data-dir holds
#   NPROC      processes of one run (default 1)
#   JOBS       runs side by side, spread over the GPUs (default 1); if there are more runs than GPUs, they share them
#   MINUTES    stops and saves everything after this many minutes (default 0: no limit)
#   SIZES      image sizes for PRESET=cost, in pixels (default "32 224")
#   ARCHS      replaces the methods' list. Its backbones are the baselines, and are also trained at WIDTHS (default
#              "24 32 12 8" for resnet, none for others). PRESET=tuning trains only what ARCHS names: name baselines, too
#   BEST       how many recipes of each architecture PRESET=tuning trains with all SEEDS (default 2)
#   RUNS       replaces any list: architectures, each with its knobs and flags after colons, such as RUNS="resnet
#              eca_resnet:eca.kernel_size=5 vit:--pretrained:--freeze=backbone"; one recipe for each architecture,
#              except with PRESET=recipe or tuning
#   TUNED      the folder of a tuning, whose winners are used
#   RECIPE     replaces the preset's flags for all runs. The flags found by TUNED override it, a run's own override those,
#              and yours override all
[ -n "${BASH_VERSION-}" ] || { echo "$0: start it with bash" >&2 && exit 2; }
set -euo pipefail

refuse() { echo "${SCRIPT:-compare.sh}: $1" >&2 && exit 2; }
here="$(cd "$(dirname "$0")" && pwd)"
if [ ! -e "$here/compare.py" ]; then here="${SLURM_SUBMIT_DIR:-$here}"; fi # sbatch runs a copy of this file
if [ ! -e "$here/compare.py" ]; then refuse "$here is not the repository: start sbatch in the folder of compare.sh"; fi

case "${1-}" in -h | --help) awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$here/compare.sh" && exit ;; esac
networks="ARCH:ARCHS METHOD:ARCHS WIDTH:WIDTHS RUN:RUNS"
if [ "${SCRIPT-}" = ablations.sh ]; then networks="ARCH:METHODS METHOD:METHODS"; fi
for near in $networks SEED:SEEDS EPOCH:EPOCHS DATA_DIR:--data-dir; do
    name="${near%%:*}"
    if [ -n "${!name+x}" ]; then echo "${SCRIPT:-compare.sh}: $name is not read: did you mean ${near#*:}?" >&2; fi
done
given=""
for name in PRESET ARCHS WIDTHS RUNS RECIPE SEEDS EPOCHS DATASET OUT NPROC JOBS MINUTES TUNED BEST; do
    if [ -n "${!name+x}" ]; then given="$given $name"; fi
done
export GIVEN="${GIVEN-$given}" # what PLAN=1 repeats

PRESET="${PRESET-methods}"
if [ -n "${METHODS+x}" ] && [ "${SCRIPT-}" != ablations.sh ]; then
    refuse "METHODS is read by ablations.sh: give ARCHS, such as ARCHS=eca_resnet"
fi
for name in ARCHS WIDTHS; do
    if [ -z "${!name+x}" ]; then continue; fi
    if [ -n "${RUNS+x}" ]; then refuse "$name is not read with RUNS: give one of them"; fi
    case "$name:$PRESET" in
        *:depth | *:classics | *:vit | *:transfer | *:recipe | *:cost | WIDTHS:tuning)
            refuse "$name is not read with PRESET=$PRESET: give RUNS"
            ;;
    esac
done
for name in RECIPE TUNED MINUTES BEST; do
    if [ "$PRESET" = cost ] && [ -n "${!name+x}" ]; then refuse "$name is not read with PRESET=cost"; fi
done
case "${RUNS+x}:$PRESET" in
    x:* | :tuning | :recipe) ;;
    *) if [ -n "${BEST+x}" ]; then refuse "BEST is not read with PRESET=$PRESET: leave it out"; fi ;;
esac
recipe="" # flags for train.py
report="" # flag for report.py
ALL_METHODS="productpool eca gmlp mixer cspnet ghostnet resnest convnext coatnet hornet lsknet segnext" # the cheapest first
COMBINATIONS="eca_ghostnet_resnet convnext_eca_resnet cspnet_eca_resnet eca_resnest_resnet"
CLASSICS="linear lenet alexnet vgg16 vgg19 googlenet resnet resnet18 multiscale_resnet18 resnet34 resnet50"
case "$PRESET" in
    methods)
        OUT="${OUT-runs/compare}"
        ARCHS="${ARCHS-$(printf '%s_resnet ' $ALL_METHODS) $COMBINATIONS}"
        runs="" # the backbones and their widths train first, to judge by
        backbones="$(printf '%s\n' ${ARCHS:-resnet} | sed -E '/^(torchvision|timm):/!{s/:.*//;s/.*_//;}')" # without knobs
        for backbone in $(echo "$backbones" | awk '!seen[$0]++'); do
            widths="${WIDTHS-}" # of the widening curve, neighbours at most 1.5 times apart
            if [ "$backbone" = resnet ]; then widths="${WIDTHS-24 32 12 8}"; fi # besides 16
            runs="$runs $backbone $(for width in $widths; do echo "$backbone:resnet.width=$width"; done)"
        done
        runs="$runs $ARCHS"
        ;;
    depth)
        runs="plain20 plain32 plain44 plain56 resnet resnet32 resnet44 resnet56"
        ;;
    classics)
        runs="$CLASSICS"
        ;;
    vit)
        runs="vit vit:--pretrained vit:vit.depth=6:vit.width=96 resnet"
        recipe="--optimizer adamw --lr 5e-4"
        ;;
    transfer)
        runs="$(for arch in vit torchvision:resnet18; do echo "$arch $arch:--pretrained $arch:--pretrained:--freeze=backbone"; done)"
        recipe="--optimizer adamw --lr 5e-4"
        if [ "${DATASET-}" != shapes100 ]; then recipe="$recipe --image-size 64"; fi
        ;;
    recipe)
        sgd="$(printf -- '--lr=%s ' 0.2 0.5 1)"
        adamw="$(printf -- '--optimizer=adamw:--lr=%s ' 2e-3 5e-3 1e-2)"
        runs="$(for arch in resnet convnext_resnet hornet_resnet coatnet_resnet; do printf "$arch:%s " $sgd $adamw; done)"
        report=--recipes
        ;;
    tuning)
        ARCHS="${ARCHS-resnet $(printf '%s_resnet ' $ALL_METHODS) $COMBINATIONS}"
        runs=""
        for arch in $ARCHS; do
            for lr in 0.05 0.1 0.2 0.4; do runs="$runs $arch:--lr=$lr"; done
            for lr in 1e-3 3e-3 1e-2; do
                runs="$runs $arch:--optimizer=adamw:--lr=$lr"
                case "$arch" in # how the papers start, which Adam can live with
                    convnext_resnet) runs="$runs $arch:convnext.init=trunc:convnext.layer_scale=1e-6:--optimizer=adamw:--lr=$lr" ;;
                    hornet_resnet) runs="$runs $arch:hornet.init=trunc:hornet.layer_scale=1e-6:hornet.scale=0.3333:--optimizer=adamw:--lr=$lr" ;;
                esac
            done
        done
        report=--recipes
        export BEST="${BEST-2}" # of each architecture, which are trained with all seeds
        ;;
    cost)
        runs="$CLASSICS resnet101 resnet152 resnet32 resnet44 resnet56 resnet110 vit"
        runs="$runs plain20 plain32 plain44 plain56 plain110 plain18 plain34"
        runs="$runs $(printf '%s_resnet ' $ALL_METHODS mscan lskblock multiscale se)"
        ;;
    *) refuse "PRESET has no list '$PRESET'; choose from methods depth classics vit transfer recipe tuning cost" ;;
esac
export PRESET SCRIPT="${SCRIPT:-compare.sh}" REPORT="$report"
export RUNS="${RUNS-$runs}"
export RECIPE="${RECIPE-$recipe}"
export SEEDS="${SEEDS-0 1 2}"
export EPOCHS="${EPOCHS-100}"
export DATASET="${DATASET-auto}"
export OUT="${OUT-runs/$PRESET}"
export SIZES="${SIZES-32 224}"
export NPROC="${NPROC-1}"
export JOBS="${JOBS-1}"
export MINUTES="${MINUTES-0}"
export TUNED="${TUNED-}"
export PLAN="${PLAN-}"
exec python "$here/compare.py" "$@"

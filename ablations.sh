#!/usr/bin/env bash
# Varies the methods' knobs, one at a time as their papers do, over seeds; the report has a table per method.
#
#   bash ablations.sh                                    # all methods on CIFAR-100: days on two CPU cores, hours on a GPU
#   METHODS="eca ghostnet" EPOCHS=5 bash ablations.sh    # two of them, briefly
#
# compare.sh does the work. Its settings (PLAN, SEEDS, EPOCHS, DATASET, OUT, NPROC, JOBS, MINUTES, TUNED, RECIPE) apply here,
# too; so do its way of resuming and its exit code. Flags are passed to train.py.
[ -n "${BASH_VERSION-}" ] || { echo "$0: start it with bash" >&2 && exit 2; }
set -euo pipefail

refuse() { echo "ablations.sh: $1" >&2 && exit 2; }
here="$(cd "$(dirname "$0")" && pwd)"
if [ ! -e "$here/compare.py" ]; then here="${SLURM_SUBMIT_DIR:-$here}"; fi # sbatch runs a copy of this file
if [ ! -e "$here/compare.py" ]; then refuse "$here is not the repository: start sbatch in the folder of ablations.sh"; fi

case "${1-}" in -h | --help) awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$here/ablations.sh" && exit ;; esac
if [ -n "${BEST+x}" ]; then refuse "BEST is not read: leave it out"; fi
for name in ARCHS WIDTHS RUNS PRESET; do
    if [ -n "${!name+x}" ]; then refuse "$name is read by compare.sh: give METHODS, such as METHODS=eca"; fi
done
given=""
for name in METHODS SEEDS EPOCHS DATASET OUT NPROC JOBS MINUTES TUNED RECIPE; do
    if [ -n "${!name+x}" ]; then given="$given $name"; fi
done
export GIVEN="${GIVEN-$given}" # what PLAN=1 repeats

KNOWN="eca ghostnet hornet resnest cspnet convnext segnext lsknet coatnet gmlp mixer multiscale productpool"
METHODS="${METHODS-$KNOWN}"

values() { # a run and a knob with its values, one run each
    local knob=$2
    for value in "${@:3}"; do echo "$1:$knob=$value"; done
}

runs_of() { # the settings that a method's paper compares, each against the default
    local arch="$1_resnet"
    echo "$arch"
    case "$1" in
        eca)
            values "$arch" eca.kernel_size 1 5 7 9 # 3 is the paper's size for up to 64 channels, and the default
            values "$arch" resnet.attention_position before-conv1 after-conv1 after-add
            echo se_resnet
            ;;
        ghostnet)
            values "$arch" ghostnet.ratio 3 4
            values "$arch" ghostnet.kernel_size 1 5 7
            values "$arch" ghostnet.relu_on primary ghost
            ;;
        hornet)
            values "$arch" hornet.orders 1,1,1 2,2,2 3,3,3 4,4,4 4,3,2
            values "$arch" hornet.kernel_size 3 5
            values "$arch" hornet.scale 0.3333 1
            values "$arch" hornet.gate gf
            values "$arch" hornet.layer_scale 0 1e-6 0.1
            values "$arch" hornet.init trunc
            ;;
        resnest)
            values "$arch" resnest.radix 0 1 4
            values "$arch" resnest.cardinality 2 4
            values "$arch" resnest.avd none before
            values "$arch" resnest.position conv2
            ;;
        cspnet)
            values "$arch" cspnet.gamma 0.25 0.75
            values "$arch" cspnet.fusion first last
            values "$arch" cspnet.split slice
            values "$arch" resnet.width 24
            ;;
        convnext)
            values "$arch" convnext.kernel_size 3 5 9 11
            values "$arch" convnext.norm batch
            values "$arch" convnext.layer_scale 0 1e-6 0.01 0.1
            values "$arch" convnext.act relu
            values "$arch" convnext.downsample resnet
            ;;
        segnext)
            values "$arch" segnext.kernel_sizes 7 7,11
            values "$arch" segnext.branch square lka
            values "$arch" segnext.fuse add
            values "$arch" segnext.pointwise false
            values "$arch" segnext.init identity
            echo mscan_resnet
            values mscan_resnet mscan.layer_scale 0 1
            ;;
        lsknet)
            echo "$arch:lsknet.kernel_sizes=3,5:lsknet.dilations=1,2"
            echo "$arch:lsknet.kernel_sizes=7,9:lsknet.dilations=1,4"
            values "$arch" lsknet.pooling mean max
            values "$arch" lsknet.selection none channel
            values "$arch" lsknet.gate softmax
            echo lskblock_resnet
            values lskblock_resnet lskblock.layer_scale 0 1
            ;;
        coatnet)
            values "$arch" coatnet.layout CCC CTT TTT
            values "$arch" coatnet.relative_bias false
            values "$arch" coatnet.head_dim 8 32
            values "$arch" coatnet.stride_place expand
            values "$arch" coatnet.pool avg
            ;;
        gmlp)
            values "$arch" gmlp.ratio 2 4
            values "$arch" gmlp.gate whole additive
            echo "$arch:gmlp.gate=linear:gmlp.spatial_std=0.07:gmlp.spatial_bias=0" # from the usual start it would be constant
            values "$arch" gmlp.spatial_std 0.07
            values "$arch" gmlp.spatial_bias 0
            values "$arch" gmlp.first_block 2
            ;;
        mixer)
            values "$arch" mixer.token_hidden 8 16 64 128
            values "$arch" mixer.channel_hidden 128
            values "$arch" mixer.first_block 2
            ;;
        multiscale)
            values "$arch" multiscale.form depthwise cascade
            values "$arch" multiscale.kernel_sizes 3,5 3,7
            echo "$arch:multiscale.form=cascade:multiscale.scales=2"
            echo "$arch:multiscale.form=cascade:multiscale.scales=8"
            ;;
        productpool)
            values "$arch" productpool.form square relu linear
            values "$arch" productpool.norm false
            values "$arch" productpool.features 64 128 512
            ;;
        *) refuse "METHODS: no ablations of '$1'; choose from $KNOWN, or add its knobs to runs_of in ablations.sh" ;;
    esac
}

RUNS="resnet"
for method in $METHODS; do
    RUNS="$RUNS $(runs_of "$method")"
done
export RUNS OUT="${OUT-runs/ablations}" SCRIPT=ablations.sh
exec bash "$here/compare.sh" "$@"

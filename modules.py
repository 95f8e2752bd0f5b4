"""What a reader must know of each method: its name, slot, paper, and three lines. models/<method>.py has the rest."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Module:
    name: str
    slot: str  # conv, attention, block or stage
    paper: str
    idea: str
    place: str
    here: str  # what differs from the paper here

    @property
    def lines(self):
        return self.idea, self.place, self.here


BEFORE_ADD = "Scales the channels of the residual branch, after its last norm and before the add."
GATE_ALONE = "Here the gate stands alone, without the paper's 1x1 convolutions and inner shortcut."
THIRD_STAGE = "Takes the place of the basic blocks of the third stage, where maps are smallest."
EVERY_BLOCK = "Takes the place of every basic block and brings its own stem, downsampling and norms."
BOTH_CONVS = "Takes the place of both 3x3 convolutions of every basic block."

MODULES = {
    "eca": Module(
        "ECA", "attention", "Wang et al., ECA-Net, CVPR 2020",
        "Weights each channel by a 1D convolution over the means of its neighbouring channels: 3 to 5 parameters.",
        BEFORE_ADD, "As in the authors' code.",
    ),
    "se": Module(
        "SE", "attention", "Hu et al., Squeeze-and-Excitation Networks, CVPR 2018",
        "Weights each channel by a small two-layer network that sees the means of all channels.",
        BEFORE_ADD, "As in the paper's SE-ResNet.",
    ),
    "segnext": Module(
        "SegNeXt attention", "attention", "Guo et al., SegNeXt, NeurIPS 2022",
        "Weights every pixel of every channel by strip convolutions 7, 11 and 21 pixels long.",
        "Scales the residual branch, after its last norm and before the add.", GATE_ALONE,
    ),
    "lsknet": Module(
        "LSKNet attention", "attention", "Li et al., Large Selective Kernel Network, ICCV 2023",
        "Lets every pixel choose between a small and a large depthwise kernel.",
        "Scales the residual branch, after its last norm and before the add.", GATE_ALONE,
    ),
    "ghostnet": Module(
        "GhostNet", "conv", "Han et al., GhostNet, CVPR 2020",
        "Computes half of the channels by a convolution and the other half from those, by cheap depthwise filters.",
        BOTH_CONVS, "As in the paper's Ghost-ResNet-56.",
    ),
    "resnest": Module(
        "ResNeSt", "conv", "Zhang et al., ResNeSt, CVPR Workshops 2022",
        "Splits the channels, convolves each split, and sums the splits with weights from their means.",
        "Takes the place of the first 3x3 convolution of every basic block.",
        "Here the second convolution stays, because split attention is never negative.",
    ),
    "multiscale": Module(
        "Multi-scale convolution", "conv", "Gao et al., Res2Net, IEEE TPAMI 2021; Tan and Le, MixConv, BMVC 2019",
        "Runs kernels of 3, 5 and 7 pixels side by side on parts of the channels.",
        BOTH_CONVS, "Reduced to the kernels side by side, with one norm after them.",
    ),
    "convnext": Module(
        "ConvNeXt", "block", "Liu et al., A ConvNet for the 2020s, CVPR 2022",
        "A depthwise 7x7 convolution, a layer norm, and a two-layer MLP four times as wide.",
        EVERY_BLOCK, "Here layer scale starts at 1, not 1e-6, so that SGD can train it.",
    ),
    "hornet": Module(
        "HorNet", "block", "Rao et al., HorNet, NeurIPS 2022",
        "Multiplies features with each other, order after order, through gates made of depthwise convolutions.",
        EVERY_BLOCK, "Here layer scale starts at 1 and gates are scaled by 3, so that SGD can train it.",
    ),
    "coatnet": Module(
        "CoAtNet", "block", "Dai et al., CoAtNet, NeurIPS 2021",
        "Inverted bottlenecks in the early stages, self-attention with relative positions in the late ones.",
        EVERY_BLOCK, "Here attention heads have 16 channels, and the stem keeps the image's size.",
    ),
    "gmlp": Module(
        "gMLP", "block", "Liu et al., Pay Attention to MLPs, NeurIPS 2021",
        "An MLP over channels whose hidden map is gated by a learned mix of all pixels.",
        THIRD_STAGE, "Here it follows convolutions; the paper's network has none.",
    ),
    "mixer": Module(
        "MLP-Mixer", "block", "Tolstikhin et al., MLP-Mixer, NeurIPS 2021",
        "One MLP across the pixels of each channel, then one across the channels of each pixel.",
        THIRD_STAGE, "Here it follows convolutions; the paper's network has none.",
    ),
    "mscan": Module(
        "MSCAN", "block", "Guo et al., SegNeXt, NeurIPS 2022",
        "The whole block around multi-scale convolutional attention.",
        EVERY_BLOCK, "Here the stem keeps the image's size.",
    ),
    "lskblock": Module(
        "LSKNet block", "block", "Li et al., Large Selective Kernel Network, ICCV 2023",
        "The whole block around large selective kernels.",
        EVERY_BLOCK, "Here the stem keeps the image's size.",
    ),
    "cspnet": Module(
        "CSPNet", "stage", "Wang et al., CSPNet, CVPR Workshops 2020",
        "Sends part of the channels through a stage's blocks and leads the rest around them.",
        "Wraps every stage; the blocks inside stay.", "Here with ReLU, as in the rest of the network.",
    ),
}  # fmt: skip


def modules_of(nets):
    """{method: Module} of the methods in the networks' names, in the order of MODULES; unknown ones are left out."""
    used = {method for net in nets if net.is_method for method in net.arch.split("_")[:-1]}
    return {method: module for method, module in MODULES.items() if method in used}

"""Settings of training. Batch sizes are global: summed over the ranks."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.core.settings import Settings, written_out
from pipeline.methods.augmentation import Guidance
from pipeline.methods.augmentation.mixing import Mixing
from pipeline.methods.augmentation.transforms import Crop, Flip, Transform
from pipeline.methods.training.penalty import Penalty, RightReasons


class Training(Settings):
    """How a network is trained."""

    epochs: int = Field(default=5, ge=0)
    """Passes over the training data; 0 takes `model.weights` as they are, and is for pretraining only."""
    batch_size: int = Field(default=64, ge=1)
    """Samples of one optimizer step, over all ranks; the last batch of an epoch may be smaller."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Peak learning rate, reached when the warm-up ends."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """adamw wants a learning rate near 0.001."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd; adamw uses (0.9, 0.999)."""
    nesterov: bool = True
    """Nesterov's form of the momentum of sgd; without effect where momentum is 0."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Decay of the weights of linear and convolution layers; biases and scales (one axis) are left out."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of all optimizer steps in which the learning rate climbs to its peak."""
    schedule: Literal["cosine", "constant", "step", "one_cycle"] = "cosine"
    """Learning rate after the warm-up: half a cosine down to 0; the peak throughout; the peak times `decay_factor` for each
    `decay_epochs` that have passed; or one cycle, whose warm-up begins at 1/25 of the peak and whose half cosine ends at 1/250,000."""
    schedule_part: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = Field(default=None, strict=False)
    """Where these epochs lie in a longer schedule: how many came before them, and how many there are in all; the learning rate goes on as
    it would have without a break. None: they are all of it."""
    decay_epochs: int = Field(default=30, ge=1)
    """Epochs after which schedule step lowers the learning rate, each time again."""
    decay_factor: float = Field(default=0.1, gt=0, lt=1)
    """What schedule step multiplies it by."""
    transforms: tuple[Annotated[Transform, written_out("transform")], ...] = ()
    """Names or mappings of what changes images at random in each step, one after another, such as [crop, flip]."""
    mixing: Annotated[Mixing, written_out("mixing")] | None = None
    """Name or mapping of what makes one training sample of two; None leaves each by itself. Not for tokens; cutmix is for images."""
    guide: Guidance | None = None
    """What changes the samples of a step by the attributions of the network as it stands; None leaves them. It goes without mixing."""
    penalty: Penalty | None = None
    """What is added to each sample's loss by where the network looks; None adds nothing. It goes without mixing and without a guide."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target's probability that is spread evenly over all classes."""
    class_weights: Literal["equal", "balanced"] = "equal"
    """balanced weighs each sample's loss by how rare its class is, N / (K N_k), so that all classes count alike. For classes only."""
    micro_batches: int = Field(default=1, ge=1)
    """Parts that a rank works on one after another for one optimizer step, to hold fewer samples in memory; the step is the same up to
    rounding, but for batch normalisation, which takes the statistics of each part."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the forward pass (autocast); weights stay float32. float16 scales the loss, and
    skips a step whose gradients overflow: it is counted as a step, and 20 in a row are an error. bfloat16 does neither."""
    gradient_clip_norm: float | None = Field(default=None, gt=0)
    """Largest Euclidean norm of the gradient over all weights; None clips nothing."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay a step of the running mean of the weights, which replaces them at the end; None keeps the last weights."""
    early_stop_epochs: int | None = Field(default=None, ge=1)
    """Ends training after so many epochs without a lower validation loss, with the weights of the last one; None trains all."""
    trained_blocks: int | None = Field(default=None, ge=0)
    """Blocks that are trained beside the head, counted from it; 0 trains the head alone, None everything. Blocks are the children of the
    network that have weights; a Sequential counts as its children, a transformer's encoder as its layers. What is not trained
    stays in eval mode: its batch normalisation keeps its statistics, and its dropout leaves nothing out."""
    head_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the head, the last of these children, on the same schedule; None takes `learning_rate`."""
    channels_last: bool = False
    """Keeps images and weights of convolutions with the channels innermost while training, which many GPUs are faster with."""
    compile: bool = False
    """Compiles the network for training (torch.compile), which takes a C++ compiler and a minute or so; all else uses it as it is."""

    @model_validator(mode="after")
    def _check_part(self) -> "Training":
        if self.schedule_part is not None and sum((self.schedule_part[0], self.epochs)) > self.schedule_part[1]:
            before, total = self.schedule_part
            raise ValueError(
                f"schedule_part: {before} epochs before these {self.epochs} are more than {total}; set the second number higher"
            )
        return self

    @model_validator(mode="after")
    def _check_guide(self) -> "Training":
        if self.guide is not None and self.mixing is not None:
            raise ValueError(f"guide {self.guide.guide} attributes samples that have one truth each; leave it out, or mixing")
        return self

    @model_validator(mode="after")
    def _check_penalty(self) -> "Training":
        if self.penalty is None:
            return self
        name = f"penalty {self.penalty.penalty}"
        if self.mixing is not None:
            raise ValueError(f"{name} looks at samples that have one truth each; leave it out, or mixing")
        if self.guide is not None:
            raise ValueError(f"{name} and guide {self.guide.guide} would both answer for what comes out; leave one of them out")
        if isinstance(self.penalty, RightReasons) and self.compile:
            raise ValueError(f"{name} takes a second derivative, which compiled networks do not have; leave it out, or compile")
        if self.penalty.needs_mask and not all(isinstance(transform, Crop | Flip) for transform in self.transforms):
            raise ValueError(f"{name} needs masks, which follow an image that is cropped or flipped only; leave out other transforms")
        return self


Schedule = tuple[Annotated[int, Field(ge=1)] | Literal["p"], ...]
"""Epochs of training, and the rounds between them."""


def num_rounds(schedule: Schedule) -> int:
    """How many rounds there are.

    Raises:
        ValueError: numbers and 'p' do not take turns, beginning and ending with a number.
    """
    if not schedule or any((item == "p") != (place % 2 == 1) for place, item in enumerate(schedule)) or schedule[-1] == "p":
        raise ValueError(f"schedule: wanted epochs with p between them, such as [20, p, 19], got {list(schedule)}")
    return len(schedule) // 2


def scheduled(training: Training, schedule: Schedule | None, *, round: int) -> Training:
    """The training of round 0, which is pretraining, 1, 2, ..., as the schedule has it; as it is where there is none."""
    if schedule is None:
        return training
    epochs = [int(item) for item in schedule if item != "p"]
    return training.model_copy(update={"epochs": epochs[round], "schedule_part": (sum(epochs[:round]), sum(epochs))})


class Retraining(Training):
    """How a network is trained once more, on what augmentation made."""

    start: Literal["pretrained", "scratch"] = "pretrained"
    """Weights to start from: those that were explained, or those that pretraining started from."""

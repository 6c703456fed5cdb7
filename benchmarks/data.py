"""How fast training is fed beside what it replaces: ratios measured side by side in one run.

    ATTRAIN_DATA=... python -m benchmarks.data [--write results/reference/data]

Holds against each other, on the CIFAR-10 and Tiny ImageNet images of ATTRAIN_DATA: batches as training makes them, and torchvision's
data sets with the same transforms behind a DataLoader with two workers; the reading of JPEG files, and two processes that decode with
Pillow; a step of training, and the bare network forward and backward. Each time is the median of a few, the two sides taking turns.
Ends with 1 if a target is missed.

B = batch, C = channels, H, W = pixels
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.comparison import Row, medians, show
from pipeline.core.context import Context
from pipeline.methods.augmentation.transforms import Crop, Flip, RandAugment, Transform
from pipeline.methods.datasets.cifar import Cifar10
from pipeline.methods.datasets.samples import Samples
from pipeline.methods.datasets.tiny_imagenet import TinyImagenet
from pipeline.methods.models import ResNet20
from pipeline.methods.training.batches import Batches
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.loop import train
from pipeline.methods.training.settings import Training
from pipeline.methods.vision import torchvision

BATCH_SIZE = 256
MEAN, STD = (0.48, 0.45, 0.40), (0.28, 0.27, 0.28)
WORKERS = 2
STEP_BATCH_SIZE = 128
"""Of the published recipes for ResNets on CIFAR-10."""


class Cifar10Cut(torchvision.datasets.CIFAR10):
    """torchvision's, which would refuse batches of other checksums than the published ones."""

    def _check_integrity(self) -> bool:
        return True


def training_set(samples: Samples, folder: Path) -> SampleSet:
    """The training images, memory-mapped as prepare leaves them."""
    is_train = samples.splits_N == "train"
    np.save(folder / "samples.npy", samples.x_NCHW[is_train])
    return SampleSet.of(np.load(folder / "samples.npy", mmap_mode="r"), labels=samples.labels_N[is_train], mean=MEAN, std=STD)


def our_batches(data: SampleSet, transforms: tuple[Transform, ...]) -> Iterator[torch.Tensor]:
    """What a network would get in training, without end."""
    settings = Training(epochs=1000, batch_size=BATCH_SIZE, transforms=transforms)
    batches = Batches(data=data, settings=settings, seed=0, round=0, num_extra=0, device="cpu")
    for step, batch_PB in enumerate(batches.after(0)):
        yield batches.inputs(batch_PB, step=step, model=torch.nn.Identity())[0]


def their_batches(images: torch.utils.data.Dataset) -> Iterator[torch.Tensor]:
    """The same out of a DataLoader."""
    loader = torch.utils.data.DataLoader(images, batch_size=BATCH_SIZE, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    while True:
        yield from (x_BCHW for x_BCHW, _ in loader)


def batch_rows(name: str, data: SampleSet, theirs: Callable[[Callable], torch.utils.data.Dataset], *, repeat: int) -> list[Row]:
    """Samples a second with crop and flip, and with RandAugment too."""
    side, rows = data.sample_shape[1], []
    t = torchvision.transforms
    for title, ours, own, target in (
        ("crop and flip", (Crop(), Flip()), [], 8.0),
        ("crop, flip and RandAugment", (Crop(), Flip(), RandAugment()), [t.RandAugment()], 1.5),
    ):
        change = t.Compose([t.RandomCrop(side, padding=4), t.RandomHorizontalFlip(), *own, t.ToTensor(), t.Normalize(MEAN, STD)])
        with closing(our_batches(data, ours)) as first, closing(their_batches(theirs(change))) as second:
            epoch = -(-len(data) // BATCH_SIZE)
            next(first), next(second)
            # Without a pause their workers would fetch ahead while ours is timed. What they have then fetched, they have for nothing.
            own_s, their_s = medians(partial(taken, first, epoch), partial(taken, second, epoch), repeat=repeat, pause_s=1.0)
        rates = (f"{len(data) / value:,.0f} images/s" for value in (own_s, their_s))
        rows.append(Row(f"{name}, {title}: torchvision, {WORKERS} workers", *rates, their_s / own_s, target))
    return rows


def taken(batches: Iterator[torch.Tensor], number: int) -> None:
    """Take as many batches."""
    for _ in islice(batches, number):
        pass


def decoded(path: Path) -> np.ndarray:
    """(H, W, 3) of one file, by Pillow."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def reading_row(root: Path, *, repeat: int) -> Row:
    """The images of the training split as prepare reads them, and two processes that decode the same files."""
    files = sorted((root / "tiny-imagenet-200" / "train").glob("*/images/*.JPEG"))
    settings = TinyImagenet(num_classes=len({path.parts[-3] for path in files}), num_test=1)
    with multiprocessing.Pool(WORKERS) as pool:
        own_s, their_s = medians(partial(settings.load, root), lambda: np.stack(pool.map(decoded, files, chunksize=64)), repeat=repeat)
    rates = (f"{len(files) / value:,.0f} images/s" for value in (own_s, their_s))
    return Row(f"{len(files):,} JPEG files: Pillow in {WORKERS} processes", *rates, their_s / own_s, 1.0)


def step_row(data: SampleSet, *, repeat: int) -> Row:
    """A step of training with crop and flip, with all that belongs to it, and the bare network forward and backward."""
    steps = 20
    chosen = data.take(np.arange(steps * STEP_BATCH_SIZE) % len(data))
    settings = Training(epochs=1, batch_size=STEP_BATCH_SIZE, transforms=(Crop(), Flip()))
    model = ResNet20().build(input_shape=data.sample_shape, num_outputs=10)
    x_BCHW, label_B = chosen.batch(np.arange(STEP_BATCH_SIZE), device="cpu")

    def ours() -> None:
        train(model, chosen, settings, seed=0, round=0, context=Context())

    def bare() -> None:
        model.train()
        for _ in range(steps):
            model.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(x_BCHW), label_B).backward()

    own_s, bare_s = (value / steps for value in medians(ours, bare, repeat=repeat))
    times = (f"{1000 * value:.1f} ms" for value in (own_s, bare_s))
    return Row(f"step of resnet20, batch {STEP_BATCH_SIZE}: forward and backward", *times, own_s / bare_s, 1.05, is_least=False)


def main() -> None:
    """Measure, print, and end with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of this package's side")
    parser.add_argument("--repeat", type=int, default=5, help="of each time, of which the median counts")
    parser.add_argument("--write", type=Path, help="folder for ratios.csv and README.md")
    given = parser.parse_args()
    root = Path(os.environ.get("ATTRAIN_DATA", "data"))
    cifar, tiny = Cifar10(), TinyImagenet(num_classes=10)
    if missing := [*cifar.missing_files(root), *tiny.missing_files(root)]:
        sys.exit(f"needs CIFAR-10 and Tiny ImageNet under ATTRAIN_DATA ({root}); missing: {', '.join(map(str, missing[:3]))}")
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        first, second = (Path(folder) / name for name in ("cifar", "tiny"))
        first.mkdir(), second.mkdir()
        small, large = training_set(cifar.load(root), first), training_set(tiny.load(root), second)
        rows = batch_rows("CIFAR-10", small, lambda change: Cifar10Cut(str(root), transform=change), repeat=given.repeat)
        rows += batch_rows(
            "Tiny ImageNet",
            large,
            lambda change: torchvision.datasets.ImageFolder(str(root / "tiny-imagenet-200" / "train"), transform=change),
            repeat=given.repeat,
        )
        rows += [reading_row(root, repeat=given.repeat), step_row(small, repeat=given.repeat)]
    facts = {"repeat": given.repeat, "seed": 0, "torchvision": torchvision.__version__}
    title = "Feeding training beside what it replaces"
    sys.exit(show(rows, title=title, command="python -m benchmarks.data", facts=facts, folder=given.write))


if __name__ == "__main__":
    main()

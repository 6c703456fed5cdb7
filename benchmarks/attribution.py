"""How fast attribution is beside what it replaces: ratios measured side by side in one run.

    python benchmarks/attribution.py [--threads 2] [--images 16] [--write results/reference/attribution]

Trains the CIFAR-10 network of the published study on images of ATTRAIN_DATA (where they are not there, on the digits that come with the
package), and holds against each other: finite differences and the published loop of two forwards a feature; finite differences and the
fastest way to run the same model forward; principal components and all coordinates; this package and Captum, at its defaults and at
its best internal batch size. Each time is the median of a few, the two sides taking turns. Ends with 1 if a target is missed.

B = batch, C = channels, H, W = pixels, K = classes
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import captum.attr
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from jobs.machine import device_name
from jobs.planning import CODE_ROOT, git_state, versions
from pipeline.core.randomness import SampleStreams, generator
from pipeline.methods.attribution import (
    Attributor,
    Background,
    FiniteDifferences,
    Gradient,
    IntegratedGradients,
    Occlusion,
    Score,
    SmoothGrad,
    Zero,
    attribute,
)
from pipeline.methods.attribution.directions import PrincipalComponents
from pipeline.methods.datasets.cifar import Cifar10
from pipeline.methods.datasets.mnist_small import MnistSmall
from pipeline.methods.models import CifarCnn

SEED = 0
"""Of the weights, the training images, the images that are explained, and what methods draw."""
STEP = 1e-3
FORWARD_SIZES = (1, 4, 16, 32, 64, 128, 256, 512, 1024)
INTERNAL_SIZES = (8, 16, 32, 64, 128, 256)
PERTURBATIONS = (1, 2, 4, 8, 16, 32)
NOISE_SIZES = (1, 2, 4, 8, 25)
MET = {True: "yes", False: "no", None: ""}


@dataclass(frozen=True)
class Case:
    """A trained network and images of its test split."""

    model: nn.Module
    x_BCHW: torch.Tensor
    score: Score
    background: Background
    name: str


@dataclass(frozen=True)
class Row:
    """One comparison: a number, and what it should be at least or at most."""

    what: str
    ours: str
    theirs: str
    ratio: float
    target: float | None = None
    """None where the number only tells how another comes about."""
    is_least: bool = True

    @property
    def is_met(self) -> bool | None:
        """None without a target."""
        if self.target is None:
            return None
        return self.ratio >= self.target if self.is_least else self.ratio <= self.target


def images_of(root: Path) -> tuple[str, tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Name, and train and test split: images normalised by the training images' mean and standard deviation, and labels."""
    settings = MnistSmall() if Cifar10().missing_files(root) else Cifar10()
    samples = settings.load(root)
    x, label = torch.from_numpy(samples.x_NCHW).float() / 255, torch.from_numpy(samples.labels_N).long()
    is_train = torch.from_numpy(samples.splits_N == "train")
    mean, std = x[is_train].mean((0, 2, 3), keepdim=True), x[is_train].std((0, 2, 3), keepdim=True)
    x = (x - mean) / std
    return settings.dataset, (x[is_train], label[is_train]), (x[~is_train], label[~is_train])


def trained_case(*, num_train: int, epochs: int, num_images: int, device: str) -> Case:
    """Train with Adam at 1e-3 in batches of 64, and take the first test images in a random order."""
    root = Path(os.environ.get("ATTRAIN_DATA", CODE_ROOT / "data"))
    name, (x_train, label_train), (x_test, label_test) = images_of(root)
    torch.manual_seed(SEED)
    order = generator(SEED, "benchmark").permutation(len(x_train))[:num_train]
    x_train, label_train = x_train[order], label_train[order]
    model = CifarCnn().build(input_shape=tuple(x_train.shape[1:]), num_outputs=10).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x_train)).split(64):
            loss = nn.functional.cross_entropy(model(x_train[batch].to(device)), label_train[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part.to(device)).argmax(1).cpu() for part in x_test[:2000].split(64)])
    accuracy = float((found == label_test[:2000]).double().mean())
    chosen = generator(SEED, "benchmark images").permutation(len(x_test))[:num_images]
    background = Background(
        streams=SampleStreams(sample_ids_B=np.arange(num_images), seed=SEED, purpose="attribution"),
        lowest_CHW=x_train.amin((0, 2, 3))[:, None, None],
        highest_CHW=x_train.amax((0, 2, 3))[:, None, None],
        samples=lambda num: x_train[:num].to(device),
    )
    score = Score(label_test[chosen].to(device))
    title = f"{name}, test accuracy {accuracy:.2f} after {epochs} epochs of {len(x_train):,} images"
    return Case(model.requires_grad_(False), x_test[chosen].to(device), score, background, title)


def seconds(device: str, *calls: Callable[[], object], repeat: int) -> list[float]:
    """The median wall time of each call; they take turns, so that what else the machine does falls on all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(repeat):
        for call, found in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - started)
    return [statistics.median(found) for found in times]


def loop_repeat(repeat: int) -> int:
    """How often the published loop is timed: it takes long."""
    return max(1, repeat // 2)


def published_saliency(model: nn.Module, x_BCHW: torch.Tensor, score: Score, *, step: float) -> torch.Tensor:
    """The published loop, to the letter: for each feature two forwards of a batch of one, with the graph that nobody uses."""
    maps = []
    for i in range(len(x_BCHW)):
        x, label, found = x_BCHW[i : i + 1], int(score.target_B[i]), torch.zeros(x_BCHW[0].numel())
        for feature in range(found.numel()):
            moved = x.clone()
            moved.view(-1)[feature] += step
            found[feature] = abs((model(moved)[0, label] - model(x)[0, label]).item() / step)
        maps.append(found.reshape(x_BCHW.shape[1:]))
    return torch.stack(maps)


def finite_difference_rows(case: Case, *, device: str, repeat: int) -> list[Row]:
    """Against the published loop on one image, and against the fastest forward passes of the model."""
    for parameter in case.model.parameters():
        parameter.requires_grad_(True)  # As the loop had it.
    one, first = case.x_BCHW[:1], case.score.at(slice(1))
    ours = partial(attribute, FiniteDifferences(of="saliency", step=STEP), case.model, background=case.background.at(slice(1)))
    own_s, loop_s = seconds(
        device, lambda: ours(one, first), lambda: published_saliency(case.model, one, first, step=STEP), repeat=loop_repeat(repeat)
    )
    case.model.requires_grad_(False)
    found, expected = ours(one, first).phi_BCHW.cpu(), published_saliency(case.model, one, first, step=STEP)
    apart = float((found - expected).norm() / expected.norm())
    values = one[0].numel()
    rate, size, layout = best_forward(case, device=device, repeat=repeat)
    return [
        Row("finite differences, published loop", f"{1 / own_s:.3g} maps/s", f"{1 / loop_s:.3g} maps/s", loop_s / own_s, 8),
        Row("finite differences, relative L2 to the loop's map", f"h = {STEP:g}", "float32", apart, 0.05, is_least=False),
        Row(
            "finite differences, best forward of the model",
            f"{(values + 1) / own_s:,.0f} images/s",
            f"{rate:,.0f} images/s at batch {size}, {layout}",
            rate * own_s / (values + 1),
            1.2,
            is_least=False,
        ),
    ]


def best_forward(case: Case, *, device: str, repeat: int) -> tuple[float, int, str]:
    """Images a second, batch size and memory format of the fastest of all."""
    found = []
    for layout, memory_format in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        for size in FORWARD_SIZES:
            x_BCHW = case.x_BCHW[:1].repeat(size, 1, 1, 1).contiguous(memory_format=memory_format)
            passes = -(-1024 // size)

            def run(x_BCHW: torch.Tensor = x_BCHW, passes: int = passes) -> None:
                with torch.inference_mode():
                    for _ in range(passes):
                        case.model(x_BCHW)

            found.append((passes * size / seconds(device, run, repeat=repeat)[0], size, layout))
    return max(found)


def subspace_rows(case: Case) -> list[Row]:
    """The mean cosine to the exact gradient that principal components reach with a share of the forwards of all coordinates."""
    exact = attribute(Gradient(), case.model, case.x_BCHW, case.score).phi_BCHW.flatten(1)
    full, rows = exact.shape[1] + 1, []
    samples = len(case.background.samples(4096)) if case.background.samples else 0
    for share in (8, 4, 2):
        method = FiniteDifferences(directions=PrincipalComponents(num_samples=min(2048, samples)), step=0.05, num_queries=full // share)
        found = attribute(method, case.model, case.x_BCHW, case.score, background=case.background).phi_BCHW.flatten(1)
        cosine = float(nn.functional.cosine_similarity(found, exact).mean())
        ours, theirs = f"{full // share} forwards", f"{full} forwards"
        target = 0.9 if share == 2 else None
        rows.append(Row(f"principal components, cosine at 1/{share} of the forwards", ours, theirs, cosine, target))
    return rows


def captum_rows(case: Case, *, device: str, repeat: int) -> list[Row]:
    """Integrated gradients, SmoothGrad and occlusion of the same settings, by both."""
    target, x = case.score.target_B, case.x_BCHW
    gradients = captum.attr.IntegratedGradients(case.model)
    windows = captum.attr.Occlusion(case.model)
    shape, strides = (x.shape[1], 4, 4), (x.shape[1], 2, 2)
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(case.model))
    noise = 0.15 * float((case.background.highest_CHW - case.background.lowest_CHW).mean())
    compared: list[tuple[Attributor, Callable[..., object], str, tuple[int, ...]]] = [
        (
            IntegratedGradients(num_steps=50, baseline=Zero()),
            partial(gradients.attribute, x, target=target, n_steps=50),
            "internal_batch_size",
            INTERNAL_SIZES,
        ),
        (
            Occlusion(window=4, stride=2, baseline=Zero()),
            partial(windows.attribute, x, shape, strides=strides, target=target, baselines=0),
            "perturbations_per_eval",
            PERTURBATIONS,
        ),
        (
            SmoothGrad(num_samples=25),
            partial(tunnel.attribute, x, target=target, nt_samples=25, stdevs=noise, abs=False),
            "nt_samples_batch_size",
            NOISE_SIZES,
        ),
    ]
    return [row for ours, theirs, name, sizes in compared for row in _captum_pair(case, ours, theirs, name, sizes, device, repeat)]


def _captum_pair(
    case: Case, ours: Attributor, theirs: Callable[..., object], name: str, sizes: tuple[int, ...], device: str, repeat: int
) -> list[Row]:
    def own() -> object:
        return attribute(ours, case.model, case.x_BCHW, case.score, background=case.background)

    own_s, default_s, *best_s = seconds(device, own, theirs, *(partial(theirs, **{name: size}) for size in sizes), repeat=repeat)
    best = min(zip(best_s, sizes, strict=True))
    num, method = len(case.x_BCHW), str(ours.method)  # type: ignore[attr-defined]
    own_ms = f"{1000 * own_s / num:.3g} ms/image"
    return [
        Row(f"{method}, Captum's best", own_ms, f"{1000 * best[0] / num:.3g} ms/image at {name}={best[1]}", best[0] / own_s, 1.2),
        Row(f"{method}, Captum's defaults", own_ms, f"{1000 * default_s / num:.3g} ms/image", default_s / own_s, 3),
    ]


def table_of(rows: list[Row], case: Case, *, device: str, repeat: int) -> pd.DataFrame:
    """One row a comparison, with where and of what it was measured."""
    commit, dirty = git_state(CODE_ROOT)
    shared = {
        "model": f"cifar_cnn on {case.name}",
        "images": len(case.x_BCHW),
        "seed": SEED,
        "repeat": repeat,
        "commit": f"{(commit or 'none')[:7]}{'+' if dirty else ''}",
        "hardware": device_name(device) if device != "cpu" else f"{torch.get_num_threads()} threads of {device_name('cpu')}",
        "load": round(os.getloadavg()[0], 1),
        "python": versions()["python"],
        "torch": torch.__version__,
        "captum": captum.__version__,
        "date": f"{datetime.now():%Y-%m-%d}",
    }
    own = [
        {
            "what": row.what,
            "ours": row.ours,
            "theirs": row.theirs,
            "ratio": round(row.ratio, 3),
            "target": "" if row.target is None else f"{'>=' if row.is_least else '<='} {row.target:g}",
            "met": MET[row.is_met],
        }
        for row in rows
    ]
    return pd.DataFrame([row | shared for row in own])


def write(folder: Path, found: pd.DataFrame) -> None:
    """The table as CSV, and as a page."""
    folder.mkdir(parents=True, exist_ok=True)
    found.to_csv(folder / "ratios.csv", index=False)
    first = found.iloc[0]
    lines = [
        "# Attribution beside what it replaces",
        "",
        f"{first['model']}; {first['images']} images; {first['hardware']}, at a load of {first['load']};",
        f"times are medians of {first['repeat']} (finite differences and the published loop: of {loop_repeat(first['repeat'])}), "
        f"one seed ({first['seed']});",
        f"code {first['commit']}, Python {first['python']}, torch {first['torch']}, Captum {first['captum']}, {first['date']}.",
        "`python benchmarks/attribution.py` makes it again.",
        "",
        "| what | ours | theirs | ratio | target | met |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    columns = [found[name] for name in ("what", "ours", "theirs", "ratio", "target", "met")]
    lines += [
        f"| {what} | {ours} | {theirs} | {ratio:.3g} | {target} | {met} |"
        for what, ours, theirs, ratio, target, met in zip(*columns, strict=True)
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure, print, and end with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--images", type=int, default=16, help="images of the comparison with Captum and of the cosines")
    parser.add_argument("--train-images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=5, help="of each time, of which the median counts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--write", type=Path, help="folder for ratios.csv and README.md")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    case = trained_case(num_train=given.train_images, epochs=given.epochs, num_images=given.images, device=given.device)
    print(case.name, file=sys.stderr, flush=True)
    rows = finite_difference_rows(case, device=given.device, repeat=given.repeat)
    rows += subspace_rows(case) + captum_rows(case, device=given.device, repeat=given.repeat)
    found = table_of(rows, case, device=given.device, repeat=given.repeat)
    shown = Table("what", "ours", "theirs", "ratio", "target", title=f"{found['model'][0]}, {found['commit'][0]}, {found['hardware'][0]}")
    for row, target in zip(rows, found["target"], strict=True):
        shown.add_row(row.what, row.ours, row.theirs, f"{row.ratio:.3g}", target, style="red" if row.is_met is False else None)
    Console().print(shown)
    if given.write:
        write(given.write, found)
    sys.exit(any(row.is_met is False for row in rows))


if __name__ == "__main__":
    main()

"""How fast attribution is beside what it replaces: ratios measured side by side in one run.

    python -m benchmarks.attribution [--threads 2] [--images 64] [--write results/reference/attribution]

Trains the CIFAR-10 network of the published study on images of ATTRAIN_DATA (where they are not there, on the digits that come with the
package), and holds against each other: finite differences and the published loop of two forwards a feature; finite differences and the
fastest way to run the same model forward; principal components and all coordinates; this package and Captum; class activation maps and
pytorch-grad-cam; and the most memory that attribution takes with the bound that it was given. Each time is the median of a few, the
sides taking turns, and both are handed the same batch. Ends with 1 if a target is missed.

Captum's best is the least time an image over its internal sizes, at 16 images at once or all. What its defaults cost depends on how many
images a user hands over: integrated gradients runs all copies of all of them at once, so that one image alone is near its best and many
fall out of the cache; occlusion runs one window of all images at a time, so that it is the other way round. The target is held at a
batch of 64: what a loader of the training data hands over here unless told otherwise, and that of the figures that the targets were
set by. One and 16 images at once stand beside it. Occlusion of 64 images is there about where Captum is best, so that three times its
speed would be more than the model's fastest forward pass.

B = batch, C = channels, H, W = pixels, K = classes
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import captum.attr
import torch
from torch import nn

from benchmarks.attribution_case import SEED, Case, trained_case
from benchmarks.attribution_memory import METHODS, measured_mib
from benchmarks.comparison import Row, medians, show
from pipeline.methods import vision
from pipeline.methods.attribution import (
    Attributor,
    EigenCam,
    FiniteDifferences,
    GradCam,
    GradCamPlusPlus,
    Gradient,
    HiResCam,
    IntegratedGradients,
    LayerCam,
    Occlusion,
    Score,
    SmoothGrad,
    XGradCam,
    Zero,
    attribute,
)
from pipeline.methods.attribution.directions import PrincipalComponents

STEP = 1e-3
FORWARD_SIZES = (1, 4, 16, 32, 64, 128, 256, 512, 1024)
AT_ONCE = (1, 16)
"""Images handed over at once beside all; Captum's best is looked for at the last and at all."""
INTERNAL_SIZES = (16, 32, 64, 128)
COPIES = (1, 2, 4, 8)
"""Perturbations, or noisy samples, of each image at once."""
BOUNDS_MIB = (16, 48)


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


def finite_difference_rows(case: Case, *, repeat: int) -> list[Row]:
    """Against the published loop on one image, and against the fastest forward passes of the model."""
    for parameter in case.model.parameters():
        parameter.requires_grad_(True)  # As the loop had it.
    one, first = case.x_BCHW[:1], case.score.at(slice(1))
    ours = partial(attribute, FiniteDifferences(of="saliency", step=STEP), case.model, background=case.background.at(slice(1)))
    own_s, loop_s = medians(
        lambda: ours(one, first), lambda: published_saliency(case.model, one, first, step=STEP), repeat=loop_repeat(repeat)
    )
    case.model.requires_grad_(False)
    found, expected = ours(one, first).phi_BCHW.cpu(), published_saliency(case.model, one, first, step=STEP)
    apart = float((found - expected).norm() / expected.norm())
    values = one[0].numel()
    rate, size, layout = best_forward(case, repeat=repeat)
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


def best_forward(case: Case, *, repeat: int) -> tuple[float, int, str]:
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

            found.append((passes * size / medians(run, repeat=repeat)[0], size, layout))
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


def captum_rows(case: Case, *, repeat: int) -> list[Row]:
    """Integrated gradients, SmoothGrad and occlusion of the same settings, by both."""
    gradients, windows = captum.attr.IntegratedGradients(case.model), captum.attr.Occlusion(case.model)
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(case.model))
    noise = 0.15 * float((case.background.highest_CHW - case.background.lowest_CHW).mean())
    shape, strides = (case.x_BCHW.shape[1], 4, 4), (case.x_BCHW.shape[1], 2, 2)
    compared: list[tuple[Attributor, Callable[..., object], str, tuple[int, ...]]] = [
        (
            IntegratedGradients(num_steps=50, baseline=Zero()),
            partial(gradients.attribute, n_steps=50),
            "internal_batch_size",
            INTERNAL_SIZES,
        ),
        (
            Occlusion(window=4, stride=2, baseline=Zero()),
            partial(windows.attribute, sliding_window_shapes=shape, strides=strides, baselines=0),
            "perturbations_per_eval",
            COPIES,
        ),
        (SmoothGrad(num_samples=25), partial(tunnel.attribute, nt_samples=25, stdevs=noise, abs=False), "nt_samples_batch_size", COPIES),
    ]
    return [row for ours, theirs, name, sizes in compared for row in _captum_pair(case, ours, theirs, name, sizes, repeat)]


def _captum_pair(case: Case, ours: Attributor, theirs: Callable[..., object], name: str, sizes: tuple[int, ...], repeat: int) -> list[Row]:
    cases = [case.first(num) for num in AT_ONCE if num < len(case.x_BCHW)] + [case]
    # Captum takes no internal batch that is smaller than the number of images.
    able = [(part, size) for part in cases[-2:] for size in sizes if sizes != INTERNAL_SIZES or size >= len(part.x_BCHW)]
    settings = [(part, {}) for part in cases] + [(part, {name: size}) for part, size in able]
    own = [partial(attribute, ours, part.model, part.x_BCHW, part.score, background=part.background) for part in cases]
    other = [partial(theirs, part.x_BCHW, target=part.score.target_B, **given) for part, given in settings]
    found_s = medians(*own, *other, repeat=repeat)
    own_ms = [1000 * found / len(part.x_BCHW) for found, part in zip(found_s[: len(own)], cases, strict=True)]
    other_ms = [1000 * found / len(part.x_BCHW) for found, (part, _) in zip(found_s[len(own) :], settings, strict=True)]
    best_ms, number = min((found, number) for number, found in enumerate(other_ms))
    method, (part, given) = str(ours.method), settings[number]  # type: ignore[attr-defined]
    how = f"{len(part.x_BCHW)} images at once, {' '.join(f'{key}={value}' for key, value in given.items()) or 'defaults'}"
    rows = [Row(f"{method}, Captum's best", f"{own_ms[-1]:.3g} ms/image", f"{best_ms:.3g} ms/image at {how}", best_ms / own_ms[-1], 1.2)]
    for part, mine, default in zip(cases, own_ms, other_ms, strict=False):
        what = f"{method}, Captum's defaults, images at once: {len(part.x_BCHW)}"
        rows.append(Row(what, f"{mine:.3g} ms/image", f"{default:.3g} ms/image", default / mine, 3 if part is case else None))
    return rows


def cam_rows(case: Case, *, repeat: int) -> list[Row]:
    """Class activation maps of the last layer that keeps positions, by both; theirs wants parameters that can be trained."""
    assert vision.torchvision  # Imported before pytorch-grad-cam does, which may not be able to by itself.
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    pairs = [
        (GradCam(), pytorch_grad_cam.GradCAM),
        (GradCamPlusPlus(), pytorch_grad_cam.GradCAMPlusPlus),
        (HiResCam(), pytorch_grad_cam.HiResCAM),
        (LayerCam(), pytorch_grad_cam.LayerCAM),
        (XGradCam(), pytorch_grad_cam.XGradCAM),
        (EigenCam(), pytorch_grad_cam.EigenCAM),
    ]
    layers, targets = [case.model.features[-1]], [ClassifierOutputTarget(int(target)) for target in case.score.target_B]
    case.model.requires_grad_(True)
    rows = []
    for ours, theirs in pairs:
        with theirs(model=case.model, target_layers=layers) as cam:
            own_s, other_s = medians(
                partial(attribute, ours, case.model, case.x_BCHW, case.score, background=case.background),
                partial(cam, input_tensor=case.x_BCHW, targets=targets),
                repeat=repeat,
            )
        own_ms, other_ms = 1000 * own_s / len(case.x_BCHW), 1000 * other_s / len(case.x_BCHW)
        rows.append(Row(f"{ours.method}, pytorch-grad-cam", f"{own_ms:.3g} ms/image", f"{other_ms:.3g} ms/image", other_ms / own_ms, 1.5))
    case.model.requires_grad_(False)
    return rows


def memory_rows() -> list[Row]:
    """The growth of a process beside the bound it was given, of 256 images on a CPU.

    The bound counts activations. Beside them a backward pass holds their gradients, and a method its batch a few times (3 MiB each).
    """
    rows = []
    for method in METHODS:
        for bound in BOUNDS_MIB:
            found = measured_mib(method, num_images=256, bound_mib=bound)
            what = f"{method}, most memory of 256 images over pass_memory_gb"
            rows.append(Row(what, f"{found:.3g} MiB", f"bound of {bound} MiB", found / bound, 2.5, is_least=False))
    return rows


def main() -> None:
    """Measure, print, and end with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--images", type=int, default=64, help="images handed over at once")
    parser.add_argument("--train-images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=5, help="of each time, of which the median counts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--write", type=Path, help="folder for ratios.csv and README.md")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    case = trained_case(num_train=given.train_images, epochs=given.epochs, num_images=given.images, device=given.device)
    print(case.name, file=sys.stderr, flush=True)
    rows = finite_difference_rows(case, repeat=given.repeat)
    rows += subspace_rows(case.first(16)) + captum_rows(case, repeat=given.repeat)
    rows += cam_rows(case, repeat=given.repeat) + memory_rows()
    facts = {
        "model": f"cifar_cnn on {case.name}",
        "images": len(case.x_BCHW),
        "seed": SEED,
        "repeat": given.repeat,
        "repeat_of_published_loop": loop_repeat(given.repeat),
        "captum": captum.__version__,
        "grad_cam": version("grad-cam"),
    }
    title, command = "Attribution beside what it replaces", "python -m benchmarks.attribution"
    sys.exit(show(rows, title=title, command=command, facts=facts, folder=given.write, device=given.device))


if __name__ == "__main__":
    main()

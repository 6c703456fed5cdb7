"""What iterative patch selection costs: a pass beside the published algorithm, and memory at several sizes of the image.

    python -m benchmarks.ips [--write results/reference/ips]

Times are medians of a few, both taking turns; both must keep the same patches. Memory is how much a process of its own grows at most
while it makes a pass over scenes that are drawn patch by patch, or lie in memory whole (Linux only). Ends with 1 if a target is missed.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.attribution_memory import held_mib
from benchmarks.comparison import Row, medians, show
from jobs.planning import CODE_ROOT
from pipeline.methods.datasets.megapixel_mnist import MegapixelMnist
from pipeline.methods.datasets.scenes import Scene
from pipeline.methods.datasets.strokes import LineNoise
from pipeline.methods.ips.attention import place_values
from pipeline.methods.ips.network import PatchNetwork
from pipeline.methods.ips.patches import Grid, Ids, Image, PatchSource, patch_order
from pipeline.methods.ips.selection import select
from pipeline.methods.ips.settings import MEGAPIXEL_MNIST, IterativePatchSelection

PATCH_PX = 50
NUM_IMAGES = 2
SETTINGS = IterativePatchSelection()
"""Those of Megapixel MNIST: ResNet-18 with two layers, M and blocks of 100 patches."""
PASSES = {(1500, 50): 4.0, (3000, 800): 2.0, (3000, 50): 10.0}
"""{(side of the image, pieces of noise): least ratio to the published algorithm}: the emptier, the more there is to win."""
SIDES = {3000: 1.0, 6000: 0.4}
"""{side of the image: most memory, in that of images that lie there whole}."""
LARGE_SIDES = (12_000, 24_000)
MOST_MIB = 50.0
"""Of a pass over scenes of any size, beyond that over small ones: two of 24,000 pixels are 1,099 MiB."""


def scenes(side_px: int, num_noise: int) -> list[Scene]:
    """Scenes of that size."""
    settings = MegapixelMnist(height_px=side_px, width_px=side_px, noise=LineNoise(count=num_noise, bank_size=num_noise))
    pool = settings.pool(Path(), "train")
    records = [settings.record(pool, image) for image in range(NUM_IMAGES)]
    return [settings.scene(record, pool, patch_px=PATCH_PX, stride_px=PATCH_PX, edge="dropped") for record in records]


def whole(scene: Scene) -> Image:
    """The same with its pixels in memory."""
    grid = scene.grid
    return Image(scene.whole(), Grid(height_px=grid.height_px, width_px=grid.width_px, patch_px=PATCH_PX, stride_px=PATCH_PX))


def network() -> PatchNetwork:
    """A fresh one."""
    torch.manual_seed(0)
    return SETTINGS.build(MEGAPIXEL_MNIST, num_inputs=1).eval()


def orders_of(sources: list[Scene]) -> list[Ids]:
    """The order of evaluation."""
    return [patch_order(source.num_patches, seed=0, sample_id=index, epoch=None) for index, source in enumerate(sources)]


def ours(model: PatchNetwork, sources: Sequence[PatchSource], orders: list[Ids]) -> list[set[int]]:
    """What the pipeline keeps."""
    ids_BM = select(sources, model.scorer(), memory=SETTINGS.memory, block=SETTINGS.block, orders=orders).ids_BM
    return [set(ids.tolist()) for ids in ids_BM]


@torch.inference_mode()
def published(model: PatchNetwork, sources: Sequence[PatchSource], orders: list[Ids]) -> list[set[int]]:
    """What the published code keeps: every patch is embedded, by the encoder as it trains, and M + I projected in each iteration."""
    memory, block = SETTINGS.memory, SETTINGS.block
    patches = [torch.from_numpy(source.read(order)).float() / 255 for source, order in zip(sources, orders, strict=True)]
    added = [torch.from_numpy(source.places(order)) for source, order in zip(sources, orders, strict=True)]
    x_BNCHW, added_BND = torch.stack(patches), torch.stack([place_values(places_N2, width=model.width) for places_N2 in added])
    kept_BM = torch.arange(memory).repeat(len(sources), 1)
    kept_BMD = model.encoder(x_BNCHW[:, :memory].flatten(0, 1)).unflatten(0, (len(sources), -1)) + added_BND[:, :memory]
    for start in range(memory, x_BNCHW.shape[1], block):
        new_BID = model.encoder(x_BNCHW[:, start : start + block].flatten(0, 1)).unflatten(0, (len(sources), -1))
        ids_Bn = torch.cat([kept_BM, torch.arange(start, start + new_BID.shape[1]).repeat(len(sources), 1)], dim=1)
        candidates_BnD = torch.cat([kept_BMD, new_BID + added_BND[:, start : start + block]], dim=1)
        shares_BHTn = model.aggregator(candidates_BnD, torch.ones(ids_Bn.shape, dtype=torch.bool)).attention_BHTM
        best_BM = shares_BHTn.mean((1, 2)).topk(memory, dim=1).indices
        kept_BM, kept_BMD = ids_Bn.gather(1, best_BM), candidates_BnD.take_along_dim(best_BM[:, :, None], dim=1)
    return [set(order[positions.numpy()].tolist()) for order, positions in zip(orders, kept_BM, strict=True)]


def timed(side_px: int, num_noise: int, *, target: float, repeat: int) -> Row:
    """A pass over two scenes, ours drawing them while it reads, the published one with their pixels in memory."""
    model, drawn = network(), scenes(side_px, num_noise)
    orders, held = orders_of(drawn), [whole(scene) for scene in drawn]
    if ours(model, drawn, orders) != published(model, held, orders):
        sys.exit(f"{side_px} px, {num_noise} pieces of noise: the two do not keep the same patches")
    ours_s, theirs_s = medians(partial(ours, model, drawn, orders), partial(published, model, held, orders), repeat=repeat)
    what = f"pass over {NUM_IMAGES} images of {side_px} px, {num_noise} pieces of noise"
    return Row(what, f"{1000 * ours_s:.0f} ms", f"{1000 * theirs_s:.0f} ms", theirs_s / ours_s, target)


def growth_mib(side_px: int, *, is_whole: bool) -> float:
    """By how much this process grows at most in a pass, from what it holds after one over small scenes."""
    torch.set_num_threads(1)
    model, small = network(), scenes(500, 50)
    ours(model, small, orders_of(small))
    drawn = scenes(side_px, 50)
    orders, before_mib = orders_of(drawn), held_mib("VmRSS")
    ours(model, [whole(scene) for scene in drawn] if is_whole else drawn, orders)
    return held_mib("VmHWM") - before_mib


def measured_mib(side_px: int, kind: str) -> float:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ips", "--growth", str(side_px), kind]
    return float(subprocess.run(command, cwd=CODE_ROOT, capture_output=True, text=True, check=True).stdout)


def memory_rows() -> list[Row]:
    """Growth by the size of the image."""
    rows = []
    for side_px, target in SIDES.items():
        drawn_mib, whole_mib = measured_mib(side_px, "drawn"), measured_mib(side_px, "whole")
        what = f"memory of a pass over {NUM_IMAGES} images of {side_px} px, beside images in memory"
        rows.append(Row(what, f"{drawn_mib:.0f} MiB", f"{whole_mib:.0f} MiB", drawn_mib / whole_mib, target, is_least=False))
    for side_px in LARGE_SIDES:
        drawn_mib = measured_mib(side_px, "drawn")
        what = f"memory of a pass over {NUM_IMAGES} images of {side_px} px, beside the bound"
        rows.append(Row(what, f"{drawn_mib:.0f} MiB", f"{MOST_MIB:.0f} MiB", drawn_mib / MOST_MIB, 1.0, is_least=False))
    return rows


def main() -> None:
    """Measure, print, and end with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of what is timed")
    parser.add_argument("--repeat", type=int, default=5, help="of each time, of which the median counts")
    parser.add_argument("--write", type=Path, help="folder for ratios.csv and README.md")
    parser.add_argument("--growth", nargs=2, metavar=("SIDE_PX", "KIND"), help="only print how much this process grows; drawn or whole")
    given = parser.parse_args()
    if given.growth is not None:
        print(growth_mib(int(given.growth[0]), is_whole=given.growth[1] == "whole"))
        return
    torch.set_num_threads(given.threads)
    rows = [timed(*which, target=target, repeat=given.repeat) for which, target in PASSES.items()] + memory_rows()
    facts = {"patch_px": PATCH_PX, "memory": SETTINGS.memory, "block": SETTINGS.block, "images": NUM_IMAGES, "repeat": given.repeat}
    title = "Iterative patch selection"
    sys.exit(show(rows, title=title, command="python -m benchmarks.ips", facts=facts, folder=given.write))


if __name__ == "__main__":
    main()

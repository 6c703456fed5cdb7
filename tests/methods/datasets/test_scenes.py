"""A scene's patches, drawn one by one, are those of the image drawn in full."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.methods.datasets.scenes import Scene
from pipeline.methods.ips.patches import Grid, Image, patch_order
from pipeline.methods.ips.selection import Scorer, select


def scene_of(grid, *, num_objects=6, num_digits=2, side_px=5, compose="max", seed=0):
    random = np.random.default_rng(seed)
    sides = random.integers(1, side_px + 1, size=num_objects)
    room = np.array([grid.height_px, grid.width_px]) - sides[:, None] + 1
    return Scene(
        grid=grid,
        stamps=tuple(random.integers(0, 256, size=(side, side), dtype=np.uint8) | 1 for side in sides),
        corners_K2=(random.random((num_objects, 2)) * room).astype(np.int64),
        num_digits=num_digits,
        compose=compose,
    )


def painted(scene):
    """The image, object after object and pixel after pixel."""
    x_HW = np.zeros((scene.grid.height_px, scene.grid.width_px), dtype=np.uint8)
    for stamp, (top, left) in zip(scene.stamps, scene.corners_K2, strict=True):
        for row, column in np.ndindex(stamp.shape):
            below = x_HW[top + row, left + column]
            x_HW[top + row, left + column] = max(below, stamp[row, column]) if scene.compose == "max" else stamp[row, column]
    return x_HW[None]


@st.composite
def scenes(draw):
    height, width = draw(st.integers(5, 25)), draw(st.integers(5, 25))
    patch_px = draw(st.integers(1, min(height, width)))
    edge = draw(st.sampled_from(["dropped", "padded"]))
    grid = Grid(height_px=height, width_px=width, patch_px=patch_px, stride_px=draw(st.integers(1, patch_px + 2)), edge=edge)
    return scene_of(grid, compose=draw(st.sampled_from(["max", "overwrite"])), seed=draw(st.integers(0, 2**16)))


@given(scenes())
def test_patches_drawn_one_by_one_are_those_of_the_whole_image_for_any_size(scene):
    x_CHW = painted(scene)
    ids = np.random.default_rng(0).permutation(scene.num_patches)
    assert np.array_equal(scene.whole(), x_CHW)
    assert np.array_equal(scene.read(ids), Image(x_CHW, scene.grid).read(ids))
    assert np.array_equal(scene.places(ids), scene.grid.places(ids))


@given(scenes(), st.data())
def test_the_ink_shown_is_the_share_of_a_digits_pixels_in_the_patches_each_counted_once(scene, data):
    ids = np.array(data.draw(st.lists(st.integers(0, scene.num_patches - 1), max_size=6)), dtype=np.int64)
    is_seen = np.zeros((scene.grid.height_px, scene.grid.width_px), dtype=bool)
    for top, left in scene.grid.corners(ids):
        is_seen[top : top + scene.grid.patch_px, left : left + scene.grid.patch_px] = True
    for shown, stamp, (top, left) in zip(scene.ink_shown(ids), scene.stamps[-2:], scene.corners_K2[-2:], strict=True):
        part = is_seen[top : top + len(stamp), left : left + len(stamp)]
        assert shown == pytest.approx((stamp * part).sum(dtype=int) / stamp.sum(dtype=int))


def test_all_patches_show_all_ink_and_none_show_none():
    scene = scene_of(Grid(height_px=20, width_px=20, patch_px=6, stride_px=4, edge="padded"))
    assert scene.ink_shown(np.arange(scene.num_patches)).tolist() == [1, 1]
    assert scene.ink_shown(np.array([], dtype=np.int64)).tolist() == [0, 0]


@pytest.mark.parametrize(("compose", "expected"), [("max", [7, 9, 9]), ("overwrite", [7, 0, 9])])
def test_of_objects_that_overlap_the_brighter_or_the_later_one_shows(compose, expected):
    stamps = (np.array([[7, 9], [0, 0]], dtype=np.uint8), np.array([[0, 9], [0, 0]], dtype=np.uint8))
    grid = Grid(height_px=2, width_px=3, patch_px=2, stride_px=1)
    scene = Scene(grid=grid, stamps=stamps, corners_K2=np.array([[0, 0], [0, 1]]), num_digits=1, compose=compose)
    assert scene.whole()[0, 0].tolist() == expected


def test_a_pass_over_an_image_of_24000_pixels_takes_the_memory_of_a_few_patches():
    grid = Grid(height_px=24_000, width_px=24_000, patch_px=200, stride_px=200)
    scene = scene_of(grid, num_objects=55, num_digits=5, side_px=28)
    brightness = Scorer(embed=lambda patches: patches.double().mean((1, 2, 3))[:, None], weights_QD=torch.ones(1, 1, dtype=torch.float64))
    order = patch_order(grid.num_patches, seed=0, sample_id=0, epoch=0)
    tracemalloc.start()
    try:
        selection = select([scene], brightness, memory=60, block=60, orders=[order])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert scene.ink_shown(selection.ids_BM[0]).tolist() == [1] * 5
    # 60 patches are 2.4 MB, the image would be 576.
    assert peak < 8e6

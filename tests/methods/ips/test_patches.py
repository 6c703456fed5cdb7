"""Patches are what lies at their places in the image, whoever reads them and in whatever order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.settings import SettingsError
from pipeline.methods.ips.patches import Grid, Image, ImageFile, PatchArray, patch_order


def picture(height, width, channels=2):
    return np.random.default_rng(0).integers(0, 256, size=(channels, height, width), dtype=np.uint8)


def unfolded(x_CHW, *, patch_px, stride_px):
    """Torch's own patches, (N, C, p, p)."""
    columns = torch.nn.functional.unfold(torch.from_numpy(x_CHW)[None].double(), patch_px, stride=stride_px)[0]
    return columns.T.reshape(-1, len(x_CHW), patch_px, patch_px).numpy()


@st.composite
def grids(draw, edge):
    height, width = draw(st.integers(1, 23)), draw(st.integers(1, 23))
    patch_px = draw(st.integers(1, min(height, width)))
    return Grid(height_px=height, width_px=width, patch_px=patch_px, stride_px=draw(st.integers(1, patch_px)), edge=edge)


@given(grids("dropped"))
def test_patches_are_those_of_torch_for_any_size_and_stride(grid):
    x_CHW = picture(grid.height_px, grid.width_px)
    read = Image(x_CHW, grid).read(np.arange(grid.num_patches))
    assert np.array_equal(read, unfolded(x_CHW, patch_px=grid.patch_px, stride_px=grid.stride_px))


@given(grids("padded"))
def test_patches_over_the_edge_are_those_of_an_image_with_zeros_beside_it(grid):
    x_CHW = picture(grid.height_px, grid.width_px)
    rows, columns = ((along - 1) * grid.stride_px + grid.patch_px for along in grid.shape)
    larger = np.pad(x_CHW, ((0, 0), (0, rows - grid.height_px), (0, columns - grid.width_px)))
    read = Image(x_CHW, grid).read(np.arange(grid.num_patches))
    assert np.array_equal(read, unfolded(larger, patch_px=grid.patch_px, stride_px=grid.stride_px))
    assert grid.unseen_px == (0, 0)


@given(grids("dropped"))
def test_what_no_patch_shows_is_known(grid):
    is_seen = np.zeros((grid.height_px, grid.width_px), dtype=bool)
    for top, left in grid.corners(np.arange(grid.num_patches)):
        is_seen[top : top + grid.patch_px, left : left + grid.patch_px] = True
    assert grid.unseen_px == ((~is_seen).all(axis=1).sum(), (~is_seen).all(axis=0).sum())


def test_the_published_grids_have_their_published_numbers_of_patches():
    def shape(height, width, patch_px, edge="dropped"):
        return Grid(height_px=height, width_px=width, patch_px=patch_px, stride_px=patch_px, edge=edge).shape

    assert shape(1500, 1500, 50) == (30, 30)
    assert shape(3000, 3000, 50) == (60, 60)
    assert shape(1200, 1600, 100) == (12, 16)
    # Traffic signs in patches of 75 px: 21 columns leave out the last 25 pixels.
    assert shape(1200, 1600, 75) == (16, 21)
    assert Grid(height_px=1200, width_px=1600, patch_px=75, stride_px=75).unseen_px == (0, 25)
    assert shape(1200, 1600, 75, edge="padded") == (16, 22)


def test_an_image_in_a_file_has_the_patches_of_the_image_in_memory(tmp_path):
    grid = Grid(height_px=19, width_px=23, patch_px=5, stride_px=3, edge="padded")
    x_CHW = picture(19, 23)
    np.save(tmp_path / "image.npy", x_CHW)
    ids = np.random.default_rng(1).permutation(grid.num_patches)[:11]
    of_file, of_memory = ImageFile(tmp_path / "image.npy", grid), Image(x_CHW, grid)
    assert np.array_equal(of_file.read(ids), of_memory.read(ids))
    assert np.array_equal(of_file.places(ids), of_memory.places(ids))
    assert of_file.num_patches == of_memory.num_patches


def test_patches_are_read_in_the_order_they_are_asked_for_with_their_places():
    grid = Grid(height_px=8, width_px=12, patch_px=4, stride_px=4)
    image = Image(picture(8, 12), grid)
    ids = np.array([4, 0, 4])
    assert image.places(ids).tolist() == [[1, 1], [0, 0], [1, 1]]
    assert np.array_equal(image.read(ids)[0], image.x_CHW[:, 4:8, 4:8])
    assert np.array_equal(image.read(ids)[1:], PatchArray(image.read(np.arange(6))).read(ids)[1:])


@pytest.mark.parametrize("wrong", [-1, 6])
def test_a_patch_that_is_not_there_is_refused(wrong):
    image = Image(picture(8, 12), Grid(height_px=8, width_px=12, patch_px=4, stride_px=4))
    with pytest.raises(IndexError, match=r"wanted patches in \[0, 6\), got"):
        image.read(np.array([0, wrong]))


def test_patches_larger_than_the_image_are_refused():
    with pytest.raises(SettingsError, match="patches of 50 px every 50 px do not fit an image of 40 x 60"):
        Grid(height_px=40, width_px=60, patch_px=50, stride_px=50)


def test_the_order_is_fixed_for_evaluation_and_another_in_each_epoch_of_training():
    def order(sample_id=3, epoch=None, seed=0):
        return patch_order(50, seed=seed, sample_id=sample_id, epoch=epoch).tolist()

    orders = [order(), order(sample_id=4), order(epoch=0), order(epoch=1), order(seed=1)]
    assert all(sorted(one) == list(range(50)) for one in orders)
    assert len(set(map(tuple, orders))) == len(orders)
    assert order() == order()
    assert order(epoch=1) == order(epoch=1)

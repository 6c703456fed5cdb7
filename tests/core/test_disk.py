"""Read-only and full disks: a clear error, nothing lost, and the same again works once there is room."""

import contextlib
import subprocess

import pytest

from pipeline.core.store import Store, StoreError
from tests.core.support import FACTS, STEP


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; `remount` gives it other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(("size=256k", *options)), "attrain-test", str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        done = mount()
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {done.stderr.strip()}")
    yield folder, mount
    subprocess.run(["umount", str(folder)], check=True)


def fill(path):
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def test_a_store_that_would_lie_in_a_file_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StoreError, match=rf"the store {root} can not be written \(.*\); set ATTRAIN_STORE to a folder that can"):
            Store(root).make_root()


def test_a_stage_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "pretrain").write_text("")
    with pytest.raises(StoreError, match=rf"{STEP}.partial can not be written \(.*\); check space and permissions"):
        Store(tmp_path).attempt(STEP).__enter__()


def test_a_read_only_store_is_told_and_can_still_be_read(small_disk):
    folder, mount = small_disk
    store = Store(folder / "store")
    store.make_root()
    with store.attempt(STEP) as attempt:
        (attempt.out / "weights").write_text("weights")
        attempt.publish(FACTS)
    assert mount("remount", "ro").returncode == 0
    with pytest.raises(StoreError, match=r"can not be written \(Read-only file system\); set ATTRAIN_STORE"):
        store.make_root()
    with pytest.raises(StoreError, match=r"can not be written \(Read-only file system\); check space and permissions"):
        store.attempt("evaluate/1").__enter__()
    assert store.check(STEP) == []
    assert store.owner("evaluate/1") is None


def test_a_disk_that_turns_read_only_under_an_attempt_is_told(small_disk):
    folder, mount = small_disk
    store = Store(folder / "store")
    with store.attempt(STEP) as attempt:
        (attempt.scratch / "checkpoint").write_text("step 7")
        (attempt.out / "weights").write_text("weights")
        assert mount("remount", "ro").returncode == 0
        with pytest.raises(StoreError, match=r"can not be published \(Read-only file system\)"):
            attempt.publish(FACTS)
    assert mount("remount", "rw").returncode == 0
    assert not store.has(STEP)
    assert (attempt.scratch / "checkpoint").read_text() == "step 7"


def test_a_full_disk_loses_no_checkpoint_and_the_same_again_works_once_there_is_room(small_disk):
    folder, _ = small_disk
    store = Store(folder / "store")
    with store.attempt(STEP) as attempt:
        (attempt.scratch / "checkpoint").write_text("step 7")
        (attempt.out / "weights").write_text("weights")
        fill(folder / "filler")
        with pytest.raises(StoreError, match=rf"{STEP} can not be published \(No space left on device\); check space"):
            attempt.publish(FACTS)
    assert not store.has(STEP)
    assert store.owner(STEP) is None
    fill(folder / "more")  # The owner's file left room.
    with pytest.raises(StoreError, match=r"partial can not be written \(No space left on device\); check space"):
        store.attempt(STEP).__enter__()
    with pytest.raises(StoreError, match=r"the store .* can not be written \(No space left on device\)"):
        store.make_root()
    assert store.owner(STEP) is None
    (folder / "filler").unlink()
    with store.attempt(STEP) as again:
        assert [(earlier / "checkpoint").read_text() for earlier in again.earlier] == ["step 7"]
        (again.out / "weights").write_text("weights")
        assert again.publish(FACTS)
    assert store.check(STEP) == []

"""Who may read and write a store: its owner alone, or a group that it was opened to; and what others could have written."""

import grp
import multiprocessing
import os
import stat
import tempfile
import traceback
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.files import UnsafePathError, follow_mode_of, new_folder, open_to_group, refuse_writable_by_others, shared_group
from pipeline.core.store import Store

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user's files need root")
OTHER = 65534
"""nobody"""
MY_GROUP = grp.getgrgid(os.getegid()).gr_name


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def as_other(work, *arguments, groups=()):
    """Run something as another user, in a process of its own; how it ended: 'done' or the name of the exception."""

    def run(sender):
        os.setgroups(groups)
        os.setgid(OTHER)
        os.setuid(OTHER)
        try:
            work(*arguments)
            sender.send("done")
        except Exception as error:
            sender.send(type(error).__name__ if isinstance(error, UserError | OSError) else traceback.format_exc())

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=run, args=(sender,))
    process.start()
    ended = receiver.recv()
    process.join()
    return ended


@pytest.fixture
def store(tmp_path):
    """A store that others can look into but not write, with a plan in it."""
    for folder in ("store", "store/plans", "store/plans/study", "store/plans/study/submitit"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder).chmod(0o755)
    (tmp_path / "store/plans/study/submitit/task.pkl").write_bytes(b"")
    (tmp_path / "store/plans/study/submitit/task.pkl").chmod(0o644)
    return tmp_path / "store"


@pytest.fixture
def open_folder():
    """A folder that other users can go through: pytest's own is closed to them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_new_store_is_its_owners_alone(tmp_path, umask):
    Store(tmp_path / "runs").make_root()
    assert mode(tmp_path / "runs") == 0o700
    assert shared_group(tmp_path / "runs") is None


def test_what_only_its_owner_could_write_is_not_refused(store):
    refuse_writable_by_others(store / "plans/study/submitit", within=store)


@pytest.mark.parametrize("place", [".", "plans", "plans/study", "plans/study/submitit", "plans/study/submitit/task.pkl"])
@pytest.mark.parametrize("bits", [0o020, 0o002], ids=["group", "everybody"])
def test_what_others_could_write_is_refused_wherever_it_is(store, place, bits):
    (store / place).chmod(0o711 | bits)
    with pytest.raises(UnsafePathError, match=r"can be written by others \(mode 07[13]"):
        refuse_writable_by_others(store / "plans/study/submitit", within=store)


@pytest.mark.parametrize("closed", [".", "plans"])
def test_what_others_do_not_reach_is_not_refused(store, closed):
    # Many systems have umask 002: all that a user makes can be written by the user's group.
    for path in (store / "plans/study", *(store / "plans/study").rglob("*")):
        path.chmod(0o775)
    with pytest.raises(UnsafePathError, match="can be written by others"):
        refuse_writable_by_others(store / "plans/study/submitit", within=store)
    (store / closed).chmod(0o700)
    (store / "plans/study/submitit/link").symlink_to("task.pkl")  # submitit makes such.
    refuse_writable_by_others(store / "plans/study/submitit", within=store)


def test_a_folder_that_is_closed_itself_does_not_help_where_it_could_be_replaced(store):
    (store / "plans/study/submitit").chmod(0o700)
    (store / "plans/study").chmod(0o777)
    with pytest.raises(UnsafePathError, match=f"{store}/plans/study can be written by others"):
        refuse_writable_by_others(store / "plans/study/submitit", within=store)


@needs_root
@pytest.mark.parametrize("place", [".", "plans", "plans/study/submitit", "plans/study/submitit/task.pkl"])
def test_what_belongs_to_somebody_else_is_refused(store, place):
    os.chown(store / place, OTHER, -1)
    with pytest.raises(UnsafePathError, match="belongs to user 65534"):
        refuse_writable_by_others(store / "plans/study/submitit", within=store)


@needs_root
def test_a_user_refuses_what_another_than_root_wrote(open_folder):
    for name, user in (("mine", OTHER), ("roots", 0), ("theirs", 1)):
        (open_folder / name).mkdir(mode=0o755)
        os.chown(open_folder / name, user, -1)
    ended = {
        name: as_other(lambda path: refuse_writable_by_others(path, within=path), open_folder / name)
        for name in ("mine", "roots", "theirs")
    }
    assert ended == {"mine": "done", "roots": "done", "theirs": "UnsafePathError"}


@pytest.mark.parametrize("target", ["inside", "outside"])
def test_links_are_refused(store, tmp_path, target):
    elsewhere = tmp_path / "elsewhere" if target == "outside" else store / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (store / "plans/study/submitit/link").symlink_to(elsewhere)
    with pytest.raises(UnsafePathError, match="is a link"):
        refuse_writable_by_others(store / "plans/study/submitit", within=store)
    if target == "outside":
        with pytest.raises(UnsafePathError, match="does not lie in the store"):
            refuse_writable_by_others(store / "plans/study/submitit/link", within=store)


def test_a_store_that_a_link_leads_to_is_as_good_as_any(store, tmp_path):
    (tmp_path / "link").symlink_to(store)
    refuse_writable_by_others(tmp_path / "link/plans/study", within=tmp_path / "link")


def test_a_store_is_opened_to_a_group_when_it_is_new(tmp_path, umask):
    root = tmp_path / "shared"
    open_to_group(root, MY_GROUP)
    assert (mode(root), shared_group(root)) == (0o2770, os.getegid())
    follow_mode_of(root)
    (root / "retrain").mkdir()
    (root / "retrain" / "record.json").write_text("{}")
    assert mode(root / "retrain") == 0o2770
    assert mode(root / "retrain" / "record.json") == 0o660
    assert mode(new_folder(root, prefix=".new-")) == 0o2770
    open_to_group(root, MY_GROUP)  # The same command again.


def test_the_members_of_a_stores_group_trust_one_another_and_nobody_else(tmp_path, umask):
    root = tmp_path / "shared"
    open_to_group(root, MY_GROUP)
    plan = new_folder(root, prefix="plan")
    root.chmod(0o2771)
    refuse_writable_by_others(plan, within=root, group=shared_group(root))
    with pytest.raises(UnsafePathError, match="can be written by others"):
        refuse_writable_by_others(plan, within=root)
    plan.chmod(0o777)
    with pytest.raises(UnsafePathError, match="can be written by everybody"):
        refuse_writable_by_others(plan, within=root, group=shared_group(root))


@needs_root
def test_only_members_of_the_group_reach_what_is_in_a_shared_store(open_folder, umask):
    root = open_folder / "shared"
    open_to_group(root, MY_GROUP)
    follow_mode_of(root)
    (root / "retrain").mkdir()
    other = root / "retrain" / "other"
    assert as_other(other.mkdir) == "PermissionError"
    assert as_other(other.mkdir, groups=[os.getegid()]) == "done"
    assert other.stat().st_gid == os.getegid()


def test_a_private_store_leaves_the_umask_alone(store, umask):
    follow_mode_of(store)
    assert os.umask(0o022) == 0o022
    assert mode(new_folder(store, prefix=".new-")) == 0o700


def test_a_store_that_holds_something_is_opened_by_hand(store):
    with pytest.raises(UserError, match=rf"is there already and not open to group {MY_GROUP}.*chgrp -R {MY_GROUP} .* chmod -R g\+rwX"):
        open_to_group(store, MY_GROUP)
    assert mode(store) == 0o755


def test_a_group_that_one_is_not_in_is_refused_with_the_groups_that_one_is_in(tmp_path):
    with pytest.raises(UserError, match=f"not in a group 'no_such_group'; --shared-group wants one of .*{MY_GROUP}"):
        open_to_group(tmp_path / "shared", "no_such_group")
    assert not (tmp_path / "shared").exists()

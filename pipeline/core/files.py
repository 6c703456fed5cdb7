"""Files that are whole or not there, and stay after a power cut; and who may read and write them.

A store is its owner's alone (mode 0700), unless it was opened to a group (2770: what is made in it belongs to the group too).
"""

import grp
import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.core.errors import UserError

PRIVATE, SHARED = 0o700, 0o2770


class UnsafePathError(UserError, PermissionError):
    """Somebody else could have written what is about to be run or read."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to fill, which takes its name when the block ends: written aside, synced, renamed. If the block fails, nothing changes.

    Raises:
        OSError: the disk is full or can not be written; what was there before is as it was.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        fsync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a small file; None where it is not there, or is damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def fsync(path: Path) -> None:
    """Have a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shared_group(root: Path) -> int | None:
    """The id of the group that a store is open to; None if it is its owner's alone, or not there."""
    try:
        facts = root.stat()
    except OSError:
        return None
    return facts.st_gid if facts.st_mode & SHARED == SHARED else None


def open_to_group(root: Path, group: str) -> None:
    """Make a new store for a group: all of its members can read and write whatever is made in it.

    Raises:
        UserError: there is no such group, we are not in it, or the store holds something that the group could not read.
    """
    mine = {grp.getgrgid(number).gr_name: number for number in {os.getegid(), *os.getgroups()}}
    if group not in mine:
        raise UserError(f"you are not in a group {group!r}; --shared-group wants one of {', '.join(sorted(mine))}")
    if shared_group(root) == mine[group]:
        return
    if root.exists() and any(root.iterdir()):
        raise UserError(
            f"the store {root} is there already and not open to group {group}; to open what it holds, run: chgrp -R {group} {root} && "
            f"chmod -R g+rwX,o= {root} && find {root} -type d -exec chmod g+s {{}} +"
        )
    root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    os.chown(root, -1, mine[group])
    root.chmod(SHARED)


def follow_mode_of(root: Path) -> None:
    """Let this process, and all that it starts, make files in a shared store that the store's group can change too."""
    if shared_group(root) is not None:
        os.umask(0o007)


def new_folder(parent: Path, *, prefix: str) -> Path:
    """A new folder of a name of its own, open to those that its parent is open to."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    if shared_group(parent) is not None:
        folder.chmod(SHARED)
    return folder


def refuse_writable_by_others(path: Path, *, within: Path, group: int | None = None) -> None:
    """Refuse what somebody else could have written: `path`, all beneath it, and every folder above it up to `within`.

    Beneath a folder that is closed to all others, such as a store of mode 0700, they reach nothing, whatever the modes there.

    Args:
        path: a file or a folder.
        within: the store's root, which `path` lies in.
        group: members of this group may write: those that a store is open to trust one another. None trusts nobody.

    Raises:
        UnsafePathError: names the path, who can write it, and what to do.
    """
    path, within = path.resolve(), within.resolve()
    if not path.is_relative_to(within):
        raise UnsafePathError(f"{path} does not lie in the store {within}; remove the link that leads there")
    closed = False
    for one in (*(parent for parent in reversed(path.parents) if parent.is_relative_to(within)), path, *path.rglob("*")):
        facts = one.lstat()
        if problem := _who_can_write(facts, group, is_reached=not closed):
            raise UnsafePathError(
                f"{one} {problem}, so that somebody else may have written what would be run; look through it, then take it back "
                f"(chown, `chmod go-w`), or use another store"
            )
        closed = closed or (path.is_relative_to(one) and not facts.st_mode & (stat.S_IXGRP | stat.S_IXOTH))


def _who_can_write(facts: os.stat_result, group: int | None, *, is_reached: bool) -> str | None:
    """Who but ourselves, root and the group can write something, or could have before; None if nobody."""
    if stat.S_ISLNK(facts.st_mode) and is_reached:
        return "is a link"
    if group is not None and facts.st_gid == group:
        return "can be written by everybody" if is_reached and facts.st_mode & stat.S_IWOTH else None
    if facts.st_uid not in (os.geteuid(), 0):
        return f"belongs to user {facts.st_uid}"
    if is_reached and facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(facts.st_mode):04o})"
    return None

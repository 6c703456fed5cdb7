"""Archives are unpacked whole, into their folder and over nothing that was there; or not at all."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from jobs.fetch import FetchError
from jobs.unpacking import ArchiveError
from tests.jobs.site import source


def packed(kind, names, *, link=None):
    """An archive of files that hold their names."""
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as archive:
            for name in names:
                archive.writestr(name, name)
            if link:
                info = zipfile.ZipInfo(link)
                info.external_attr = 0o120777 << 16
                archive.writestr(info, "/etc/passwd")
    else:
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(name)
                archive.addfile(info, io.BytesIO(name.encode()))
            if link:
                info = tarfile.TarInfo(link)
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(info)
    return content.getvalue()


both = pytest.mark.parametrize("kind", ["zip", "tar.gz"])


def archive(site, kind, names=("top/a.txt", "top/deep/b.txt"), *, link=None, **options):
    options = {"unpacked": Path("into"), "gives": (Path("into/top"),)} | options
    return source(site, packed(kind, names, link=link), file=f"data.{kind}", **options)


@both
def test_archives_are_unpacked_into_their_folder_and_then_done(site, here, kind):
    wanted = archive(site, kind)
    here.fetcher.fetch(wanted)
    assert here.files == [f"data.{kind}", "into/top/a.txt", "into/top/deep/b.txt"]
    assert (here.fetcher.root / "into/top/deep/b.txt").read_text() == "top/deep/b.txt"
    assert here.told[-1] == (2, None)
    assert here.said[-1] == f"done; {here.fetcher.root / wanted.file} is not needed any more and can be removed"
    (here.fetcher.root / wanted.file).unlink()
    here.fetcher.fetch(wanted)
    assert site.asked == [None]


@both
def test_the_first_folder_of_the_names_can_be_left_out(site, here, kind):
    here.fetcher.fetch(archive(site, kind, leave_out=1, gives=(Path("into/a.txt"), Path("into/deep"))))
    assert here.files == [f"data.{kind}", "into/a.txt", "into/deep/b.txt"]


@both
def test_a_file_put_there_by_hand_is_checked_and_unpacked(site, here, kind):
    wanted = archive(site, kind)
    path = here.fetcher.root / wanted.file
    content = site.files.pop("/data")
    path.write_bytes(content[:-1])
    with pytest.raises(FetchError, match=rf"data\.{kind}: wanted md5 .*; it is damaged or cut short, remove it"):
        here.fetcher.fetch(wanted)
    path.write_bytes(content)
    here.fetcher.fetch(wanted)
    assert (here.fetcher.root / "into/top/a.txt").is_file()
    assert site.asked == []


@both
@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt", "top/../../outside.txt", "top\\..\\outside.txt"])
def test_a_name_that_leads_out_of_the_folder_is_refused_and_nothing_is_unpacked(site, here, kind, name):
    wanted = archive(site, kind, names=("top/a.txt", name))
    with pytest.raises(ArchiveError, match=r"data\.[a-z.]+ holds '.*outside\.txt', which leads out of its folder; nothing was unpacked"):
        here.fetcher.fetch(wanted)
    assert here.files == [f"data.{kind}"]


@both
def test_a_link_is_refused_and_nothing_is_unpacked(site, here, kind):
    with pytest.raises(ArchiveError, match=r"holds a link.*'top/link'; nothing was unpacked"):
        here.fetcher.fetch(archive(site, kind, link="top/link"))
    assert here.files == [f"data.{kind}"]


@both
def test_a_damaged_archive_is_refused_and_nothing_is_unpacked(site, here, kind):
    whole = packed(kind, [f"top/{number}" for number in range(200)])
    cut = whole[: len(whole) // 2] if kind == "tar.gz" else whole[:40] + b"\0" * 5 + whole[45:]
    wanted = source(site, cut, file=f"data.{kind}", unpacked=Path("into"), gives=(Path("into/top"),))
    with pytest.raises(ArchiveError, match=rf"data\.{kind} cannot be unpacked .* it is damaged or cut short"):
        here.fetcher.fetch(wanted)
    assert here.files == [f"data.{kind}"]


def test_what_was_there_before_stays_as_it_was(site, here):
    (here.fetcher.root / "into").mkdir()
    (here.fetcher.root / "into/a.txt").write_text("mine")
    here.fetcher.fetch(archive(site, "zip", names=("a.txt", "b.txt"), gives=(Path("into/a.txt"), Path("into/b.txt"))))
    assert (here.fetcher.root / "into/a.txt").read_text() == "mine"
    assert (here.fetcher.root / "into/b.txt").read_text() == "b.txt"
    assert f"  {here.fetcher.root / 'into/a.txt'} was there before and stays as it was" in here.said


def test_an_archive_of_something_else_is_refused(site, here):
    with pytest.raises(FetchError, match="was unpacked and gave no into/other; it is another file than is published"):
        here.fetcher.fetch(archive(site, "zip", gives=(Path("into/other"),)))

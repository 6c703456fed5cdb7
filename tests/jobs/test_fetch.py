"""Data sets are fetched whole from a server that breaks off, or not at all, and every refusal says what to do."""

import contextlib
import fcntl
import hashlib
import io
import tarfile
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from jobs import cli
from jobs.fetch import BESIDES, Fetcher, FetchError, fetch, sources_of
from jobs.unpacking import ArchiveError
from jobs.view import FetchView, amount_of
from pipeline.core.settings import SettingsError
from pipeline.methods.datasets import DATASETS
from pipeline.methods.datasets.sources import Source

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()


@dataclass
class Site:
    """What the server has, and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which each of the next connections is cut."""
    ranges: bool = True
    etag: str | None = '"one"'
    asked: list[str | None] = field(default_factory=list)
    """The Range of each request."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *arguments):
        """Nothing."""

    def do_GET(self):
        site, span = self.site, self.headers.get("Range")
        site.asked.append(span)
        content = site.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        same = self.headers.get("If-Range") in (None, site.etag)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and site.ranges and same else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if site.etag:
            self.send_header("ETag", site.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + site.cut_after.pop(0) if site.cut_after else len(content)
        self.wfile.write(content[start:end])
        self.close_connection = True


@pytest.fixture
def site():
    found = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"site": found}))
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Here:
    """A root to fetch to, and what was said."""

    fetcher: Fetcher
    said: list[str]
    told: list[tuple[int, int | None]]

    @property
    def files(self):
        return sorted(str(path.relative_to(self.fetcher.root)) for path in self.fetcher.root.rglob("*") if path.is_file())


@pytest.fixture
def here(tmp_path):
    said, told = [], []
    progress = lambda what, done, total, *, unit: told.append((done, total))  # noqa: E731
    return Here(Fetcher(root=tmp_path, say=said.append, progress=progress, wait_s=0.001, timeout_s=10), said, told)


def source(site, content=CONTENT, *, file="sub/data.bin", md5=True, **options):
    """A file of the server, with its md5 published or not."""
    site.files["/data"] = content
    published = hashlib.md5(content).hexdigest() if md5 else None
    return Source(url=f"{site.url}/data", file=Path(file), md5=published, **options)


def test_a_file_comes_whole_and_a_second_time_nothing_is_fetched(site, here):
    wanted = source(site)
    here.fetcher.fetch(wanted)
    assert (here.fetcher.root / wanted.file).read_bytes() == CONTENT
    assert here.files == ["sub/data.bin"]
    assert here.told[-1] == (len(CONTENT), len(CONTENT))
    assert here.said == [f"fetching {wanted.url} to {here.fetcher.root / wanted.file}"]
    here.fetcher.fetch(wanted)
    assert site.asked == [None]
    assert here.said[-1].startswith("there already: ")


@pytest.mark.parametrize("md5", [True, False], ids=["with md5", "without md5"])
def test_a_connection_that_is_cut_is_taken_up_where_it_ended(site, here, md5):
    site.cut_after = [1_500_000, 700_000, 0]
    here.fetcher.fetch(source(site, md5=md5))
    assert (here.fetcher.root / "sub/data.bin").read_bytes() == CONTENT
    assert site.asked == [None, "bytes=1500000-", "bytes=2200000-", "bytes=2200000-"]
    assert here.files == ["sub/data.bin"]
    assert ("no checksum is published" in here.said[-1]) == (not md5)


def test_a_fetch_that_was_given_up_is_taken_up_by_the_next_one(site, here):
    site.cut_after = [1_000_000, *[0] * 4]
    wanted = source(site)
    with pytest.raises(FetchError, match=r"cannot be fetched \(the connection ended after 1000000 bytes\); fetch http.* put it as "):
        here.fetcher.fetch(wanted)
    assert here.files == ["sub/data.bin.part", "sub/data.bin.part.version"]
    site.asked.clear()
    here.fetcher.fetch(wanted)
    assert site.asked == ["bytes=1000000-"]
    assert (here.fetcher.root / wanted.file).read_bytes() == CONTENT


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": '"two"'}], ids=["no ranges", "another version"])
def test_a_server_that_gives_the_whole_file_anew_is_taken_at_its_word(site, here, change):
    site.cut_after = [1_000_000, *[0] * 4]
    wanted = source(site, md5=False)
    with pytest.raises(FetchError):
        here.fetcher.fetch(wanted)
    other = CONTENT[::-1]
    site.files["/data"] = other
    for name, value in change.items():
        setattr(site, name, value)
    here.fetcher.fetch(wanted)
    assert (here.fetcher.root / wanted.file).read_bytes() == other


def test_without_version_or_checksum_nothing_is_joined(site, here):
    site.etag = None
    site.cut_after = [1_000_000]
    here.fetcher.fetch(source(site, md5=False))
    assert site.asked == [None, None]
    assert (here.fetcher.root / "sub/data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"of another version"], ids=["whole", "too long"])
def test_a_part_with_nothing_after_it_is_whole_or_fetched_anew(site, here, extra):
    wanted = source(site)
    part = here.fetcher.root / "sub/data.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT + extra)
    here.fetcher.fetch(wanted)
    assert (here.fetcher.root / wanted.file).read_bytes() == CONTENT
    assert len(site.asked) == (2 if extra else 1)


def test_another_checksum_is_refused_and_what_came_is_kept_aside(site, here):
    wanted = source(site)
    site.files["/data"] = b"<html>please accept our terms</html>"
    with pytest.raises(FetchError, match=rf"/data: wanted md5 {wanted.md5}, got [0-9a-f]{{32}}; what came is kept as .*data\.bin\.wrong"):
        here.fetcher.fetch(wanted)
    assert "sub/data.bin" not in here.files
    assert (here.fetcher.root / "sub/data.bin.wrong").read_bytes().startswith(b"<html>")
    site.files["/data"] = CONTENT
    here.fetcher.fetch(wanted)
    assert (here.fetcher.root / wanted.file).read_bytes() == CONTENT


def test_a_file_that_is_gone_is_asked_for_once(site, here):
    wanted = source(site)
    site.files.clear()
    with pytest.raises(
        FetchError, match=rf"/data: 404 Not Found\. fetch {wanted.url} \(md5 {wanted.md5}\) on a machine that can, and put it as"
    ):
        here.fetcher.fetch(wanted)
    assert site.asked == [None]


def test_without_internet_it_says_which_file_to_put_where(here):
    wanted = Source(url="http://127.0.0.1:9/data.zip", file=Path("data.zip"), unpacked=Path(), gives=(Path("data"),))
    words = rf"cannot be fetched \(.*refused.*\); fetch {wanted.url} \(no checksum is published\) on a machine that can, and put it as "
    with pytest.raises(FetchError, match=words + rf"{here.fetcher.root}/data\.zip, then run the same command again here"):
        here.fetcher.fetch(wanted)


def test_two_fetches_of_one_file_do_not_mix(site, here):
    wanted = source(site)
    part = here.fetcher.root / "sub/data.bin.part"
    part.parent.mkdir()
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="is being filled by another fetch"):
            here.fetcher.fetch(wanted)


def test_a_full_disk_is_told_before_anything_is_fetched(site, here, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(FetchError, match=r"has 0\.0 GB free, and 0\.0 GB are still to come; make space, or set ATTRAIN_DATA"):
        here.fetcher.fetch(source(site))


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


@pytest.mark.parametrize("settings", DATASETS, ids=lambda settings: settings.__name__)
def test_every_data_set_says_where_its_files_are_or_why_they_are_not_fetched(settings, here):
    name = settings.model_fields["dataset"].default
    fetch(name, here.fetcher, dry_run=True)
    sources = sources_of(name)
    if isinstance(sources, str):
        assert here.said == [sources]
        assert sources.startswith(name)
    else:
        assert [line.split()[1] for line in here.said] == [one.url for one in sources]
    assert here.files == []


@pytest.mark.parametrize("name", BESIDES)
def test_what_is_fetched_beside_data_sets_lies_where_it_is_looked_for(name, here):
    fetch(name, here.fetcher, dry_run=True)
    assert len(here.said) == len(BESIDES[name])
    assert not any(path.is_absolute() for one in BESIDES[name] for path in (one.file, *one.wanted))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "tiny_imagenet", "news20"])
def test_what_is_fetched_is_what_the_data_set_looks_for(name, here):
    """Touched where fetching puts them, the files are enough, or those that lack lie in what was unpacked."""
    settings = next(settings for settings in DATASETS if settings.model_fields["dataset"].default == name)
    assert settings().missing_files(here.fetcher.root)
    for one in sources_of(name):
        for path in one.wanted:
            (here.fetcher.root / path).parent.mkdir(parents=True, exist_ok=True)
            (here.fetcher.root / path).mkdir() if one.unpacked is not None else (here.fetcher.root / path).touch()
    unpacked = [here.fetcher.root / path for one in sources_of(name) if one.unpacked is not None for path in one.wanted]
    lacking = settings().missing_files(here.fetcher.root)
    assert all(any(path.is_relative_to(folder) for folder in unpacked) for path in lacking)
    assert bool(lacking) == (name == "tiny_imagenet")


def test_data_that_are_there_in_any_form_are_not_fetched(here):
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (here.fetcher.root / "cifar-10-batches-py").mkdir(exist_ok=True)
        (here.fetcher.root / "cifar-10-batches-py" / name).touch()
    fetch("cifar10", here.fetcher)
    assert here.said == [f"there already: all that cifar10 needs, in {here.fetcher.root}"]
    (here.fetcher.root / "cifar-100-python.tar.gz").touch()
    fetch("cifar100", here.fetcher)
    assert "cifar-100-python.tar.gz: wanted md5 eb9058c3a382ffc7106e4002c42a8d85, got d41d8cd98f00b204" in here.said[-1]


def test_an_unknown_name_is_refused_with_the_nearest(here):
    with pytest.raises(SettingsError, match=r"unknown data set 'tiny_imagnet' \(nearest: tiny_imagenet; valid: .*glove"):
        fetch("tiny_imagnet", here.fetcher)


def test_the_command_says_what_it_would_do_and_changes_nothing(tmp_path):
    done = CliRunner().invoke(cli.app, ["fetch", "tiny_imagenet", "--dry-run", "--data", str(tmp_path / "data")])
    assert done.exit_code == 0
    assert "fetch http://cs231n.stanford.edu/tiny-imagenet-200.zip (md5 90528d7ca1a48142e341f4ef8d21d0de)" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_in_a_terminal_and_a_line_a_minute_elsewhere(terminal, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("jobs.view.time.monotonic", lambda: now[0])
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=100)
    with contextlib.ExitStack() as stack:
        view = stack.enter_context(FetchView(console))
        for second in range(125):
            now[0] = float(second)
            view("data.zip", second * 1_000_000, 250_000_000, unit="bytes")
    lines = [line for line in shown.getvalue().splitlines() if "MB/s" in line]
    if not terminal:
        assert lines == [
            "  data.zip: 60.0 of 250.0 MB, 1.0 MB/s, 190 s left",
            "  data.zip: 120.0 of 250.0 MB, 1.0 MB/s, 130 s left",
        ]
    else:
        assert "124.0 of 250.0 MB" in shown.getvalue()


def test_amounts_are_said_as_far_as_they_are_known():
    assert amount_of(5, None, unit="files", since=5, seconds=0.5) == "5 files"
    assert amount_of(500, None, unit="files", since=400, seconds=4) == "500 files, 100 files/s"

"""Data sets are fetched whole from a server that breaks off, or not at all, and every refusal says what to do."""

import contextlib
import fcntl
import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from jobs import cli
from jobs.fetch import BESIDES, FetchError, fetch, sources_of
from jobs.view import FetchView, amount_of
from pipeline.core.settings import SettingsError
from pipeline.methods.datasets import DATASETS
from pipeline.methods.datasets.sources import Source
from tests.jobs.site import CONTENT, source


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

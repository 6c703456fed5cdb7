"""Where the files of data sets are published, and where they lie once they are here."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A published file. Paths are from ATTRAIN_DATA."""

    url: str
    file: Path
    """Where it is put."""
    md5: str | None = None
    """As published with it; None where none is."""
    unpacked: Path | None = None
    """Folder that the archive's files go into; None: it is read as it is."""
    leave_out: int = 0
    """Folders at the beginning of the archive's names that are left out."""
    gives: tuple[Path, ...] = ()
    """What is there once it is unpacked."""

    def __post_init__(self) -> None:
        assert (self.unpacked is None) == (not self.gives)

    @property
    def wanted(self) -> tuple[Path, ...]:
        """What is to be there in the end: the file, or what is unpacked of it."""
        return self.gives or (self.file,)


MNIST_FILES = tuple(
    Source(url=f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}-ubyte.gz", file=Path("MNIST/raw", f"{name}-ubyte.gz"), md5=md5)
    for name, md5 in {
        "train-images-idx3": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1": "ec29112dd5afa0611ce80d1b7f02629c",
    }.items()
)
CIFAR_10_FILES = (
    Source(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        file=Path("cifar-10-python.tar.gz"),
        md5="c58f30108f718f92721af3b95e74349a",
    ),
)
CIFAR_100_FILES = (
    Source(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        file=Path("cifar-100-python.tar.gz"),
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
)
TINY_IMAGENET_FILES = (
    Source(
        url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        file=Path("tiny-imagenet-200.zip"),
        md5="90528d7ca1a48142e341f4ef8d21d0de",
        unpacked=Path(),
        gives=(Path("tiny-imagenet-200"),),
    ),
)
NEWS_20_FILES = (
    Source(
        url="http://qwone.com/~jason/20Newsgroups/20news-bydate.tar.gz",
        file=Path("20news-bydate.tar.gz"),
        unpacked=Path("20news"),
        gives=(Path("20news/20news-bydate-train"), Path("20news/20news-bydate-test")),
    ),
)
GLOVE_FILES = (
    Source(
        url="https://nlp.stanford.edu/data/glove.6B.zip",
        file=Path("glove.6B.zip"),
        unpacked=Path("glove"),
        gives=tuple(Path(f"glove/glove.6B.{size}d.txt") for size in (50, 100, 200, 300)),
    ),
)
PTB_XL_FILES = (
    Source(
        url=(
            "https://physionet.org/static/published-projects/ptb-xl/ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3.zip"
        ),
        file=Path("ptb-xl-1.0.3.zip"),
        unpacked=Path("ptb-xl"),
        leave_out=1,
        gives=tuple(Path("ptb-xl", name) for name in ("ptbxl_database.csv", "scp_statements.csv", "records100", "records500")),
    ),
)

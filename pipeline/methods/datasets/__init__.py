"""Data sets to choose from. numpy only: nothing here imports torch."""

from typing import Annotated

from pydantic import Field

from pipeline.core.settings import members
from pipeline.methods.datasets.additive import Additive
from pipeline.methods.datasets.cifar import Cifar10, Cifar100
from pipeline.methods.datasets.idx import Mnist
from pipeline.methods.datasets.image_folder import ImageFolder
from pipeline.methods.datasets.image_table import ImageTable
from pipeline.methods.datasets.mnist_small import MnistSmall
from pipeline.methods.datasets.news20 import News20
from pipeline.methods.datasets.ptbxl import PtbXl
from pipeline.methods.datasets.samples import DataFileError, DatasetSettings, MissingDataError, Samples
from pipeline.methods.datasets.shortcut import Shortcut
from pipeline.methods.datasets.table import Table, TableOfValues
from pipeline.methods.datasets.tiny_imagenet import TinyImagenet

Dataset = Annotated[
    MnistSmall
    | Mnist
    | Cifar10
    | Cifar100
    | TinyImagenet
    | ImageFolder
    | ImageTable
    | Shortcut
    | News20
    | PtbXl
    | Additive
    | Table
    | TableOfValues,
    Field(discriminator="dataset"),
]
DATASETS = tuple(members(Dataset).values())

__all__ = [
    "DATASETS",
    "Additive",
    "Cifar10",
    "Cifar100",
    "DataFileError",
    "Dataset",
    "DatasetSettings",
    "ImageFolder",
    "ImageTable",
    "MissingDataError",
    "Mnist",
    "MnistSmall",
    "News20",
    "PtbXl",
    "Samples",
    "Shortcut",
    "Table",
    "TableOfValues",
    "TinyImagenet",
]

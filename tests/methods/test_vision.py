"""torchvision imports whichever build of torch it meets."""

import subprocess
import sys

import pydantic_core
import torch

from pipeline.methods.vision import SCHEMAS, load_operators, torchvision


def test_torchvision_imports_in_a_fresh_interpreter_without_a_warning():
    code = "from pipeline.methods.vision import torchvision; print(torchvision.__version__)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_two_operators_have_the_schemas_that_torchvision_gives_them():
    known = [str(getattr(torch.ops.torchvision, name).default._schema) for name in ("nms", "qnms")]
    assert known == [f"torchvision::{schema}" for schema in SCHEMAS]


def test_image_transforms_compute():
    image_CHW = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4)
    flipped_CHW = torchvision.transforms.functional.hflip(image_CHW)
    assert torch.equal(flipped_CHW, image_CHW.flip(-1))


def test_a_library_that_loads_needs_no_declaration(tmp_path):
    (tmp_path / "_C.so").symlink_to(pydantic_core._pydantic_core.__file__)  # any library that loads here
    assert load_operators(str(tmp_path))


def test_a_library_that_is_missing_or_cannot_load_is_told(tmp_path):
    assert not load_operators(str(tmp_path))
    (tmp_path / "_C.so").write_bytes(b"not a library")
    assert not load_operators(str(tmp_path))

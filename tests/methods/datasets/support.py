"""Small image files, made as the tests need them."""

import io
import json

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet


def picture(seed=0, *, side_px=64, channels=3, form="JPEG", **options):
    """The bytes of an image of smooth noise: its colours survive JPEG's compression to a few values."""
    coarse = np.random.default_rng(seed).integers(0, 256, size=(2, 2, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BILINEAR)
    content = io.BytesIO()
    (image if channels == 3 else image.convert("L")).save(content, format=form, **options)
    return content.getvalue()


def pixels(content, mode="RGB"):
    """What Pillow itself makes of an image's bytes: (C, H, W)."""
    found = np.asarray(Image.open(io.BytesIO(content)).convert(mode))
    return found.reshape(*found.shape[:2], -1).transpose(2, 0, 1)


def write_table(path, contents, labels, *, names=None, image="image", label="label", plain=False):
    """A Parquet file as the Hugging Face hub has it; `names` of the classes go into its metadata, `plain` leaves the paths out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = pa.array(contents, pa.binary())
    if not plain:
        held = pa.StructArray.from_arrays([held, pa.array([None] * len(contents), pa.string())], names=["bytes", "path"])
    table = pa.table({image: held, label: pa.array(labels)})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)

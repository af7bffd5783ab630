"""Presets: which cases a run goes through."""

from collections.abc import Callable
from itertools import product

from .case import Case
from .convolution import ConvolutionCase
from .engines import ENGINES, LINEAR, MASKED
from .engines.convolutions import CONVOLUTIONS
from .layer import LayerCase
from .lookup import LookupCase
from .lookup_tables import RACES, Size
from .network import NetworkCase
from .settings import Settings, Shape

# transformer blocks, SparseProp's own shape (902 misses its fast transpose, 896 does not), square, MNIST, CIFAR
SHAPES: tuple[Shape, ...] = (
    (768, 3072, 896), (768, 3072, 902), (384, 1536, 2048), (640, 2560, 1024), (1024, 1024, 128), (4096, 4096, 128),
    (784, 1000, 128), (3072, 1024, 100),
)  # fmt: skip
SMALL: tuple[Shape, ...] = ((64, 64, 16),)  # where the fixed cost of a call shows
INFERENCE: tuple[Shape, ...] = ((768, 3072, 1),)
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
THREADS = (1, 2)


def layers(settings: Settings) -> list[Case]:
    """One layer, over shapes and densities."""
    cases: list[Case] = []
    for threads, layout, shape in product(
        settings.threads or THREADS, settings.layouts or ("row-major",), settings.shapes or SHAPES + SMALL + INFERENCE
    ):
        densities = (0.1,) if shape in SMALL + INFERENCE else DENSITIES
        for density in settings.densities or densities:
            case = LayerCase(*shape, density, threads, layout, training=shape not in INFERENCE)  # type: ignore[arg-type]
            cases.append(case)
    return cases


def mlp(settings: Settings) -> list[Case]:
    """The network of Nerva's CIFAR figures."""
    densities = settings.densities or (0.2, 0.1, 0.05, 0.01)
    return [
        NetworkCase("MLP", (3072, 1024, 512, 10), 100, density, threads)
        for threads, density in product(settings.threads or THREADS, densities)
    ]


def lookup(settings: Settings) -> list[Case]:
    """Lookup tables, by rule and law of ids."""
    size = Size(settings.rows, settings.dim, settings.ids, settings.bag)
    return [
        LookupCase(rule, law, size, threads, settings.dense)  # type: ignore[arg-type]
        for threads, law, rule in product(settings.threads or THREADS[-1:], settings.laws or ("uniform", "zipf"), RACES)
    ]


def scale(settings: Settings) -> list[Case]:
    """Networks that grow until only sparse ones fit, and two that dense ones never did."""
    engines = ("sparsetrain", *LINEAR, *MASKED)
    density = (settings.densities or (0.01,))[0]
    cases: list[Case] = []
    for threads in settings.threads or THREADS[-1:]:
        for width in (1024, 2048, 4096, 8192, 32768):
            sizes = (3072, width, width, width, 10)
            cases.append(NetworkCase("Scale", sizes, 100, density, threads, engines=engines))
        sizes = (3312, 600_000, 600_000, 600_000, 5)
        cases.append(NetworkCase("Scale", sizes, 2, None, threads, epsilon=20, engines=engines))
    return cases


# outputs, channels, batch, size, kernel, stride: SparseProp's own, those of residual networks, and a pointwise one
IMAGES = (
    (256, 128, 8, 7, 3, 1), (128, 64, 32, 28, 3, 1), (64, 64, 32, 56, 3, 1), (128, 64, 32, 56, 3, 2),
    (256, 64, 32, 28, 1, 1),
)  # fmt: skip


def convs(settings: Settings) -> list[Case]:
    """One convolution, over shapes and densities."""
    return [
        ConvolutionCase(channels, outputs, batch, size, density, threads, kernel, stride)
        for threads, (outputs, channels, batch, size, kernel, stride) in product(
            settings.threads or THREADS[-1:], IMAGES
        )
        for density in settings.densities or (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
    ]


CONTESTANTS = tuple(dict.fromkeys([*ENGINES, *CONVOLUTIONS, *(name for names in RACES.values() for name in names)]))

PRESETS: dict[str, Callable[[Settings], list[Case]]] = {
    "layers": layers, "convs": convs, "mlp": mlp, "lookup": lookup, "scale": scale,
}  # fmt: skip

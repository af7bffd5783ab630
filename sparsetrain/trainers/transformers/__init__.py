"""transformers: edges that change under its Trainer, and sparse models from save_pretrained."""

import sparsetrain.extras as _extras  # no public name

_extras.needed("sparsetrain.trainers.transformers", "transformers")

from .callback import EvolverCallback as EvolverCallback  # noqa: E402
from .pretrained import from_pretrained as from_pretrained  # noqa: E402

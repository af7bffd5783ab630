"""transformers: edges that change under its Trainer, and sparse models from save_pretrained."""

from .callback import EvolverCallback as EvolverCallback
from .pretrained import from_pretrained as from_pretrained

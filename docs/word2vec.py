"""word2vec on 300 news articles, trained twice: what RMSprop does to rows of a table that a step does not use.

Skip-gram with negative sampling (Mikolov et al., "Distributed representations of words and phrases and their
compositionality", 2013). Both trainings start from the same tables and see the same batches; they differ in the squared
gradients that are kept of unused rows: with unused="frozen" they stand still, with unused="dense" they decay.

    python docs/word2vec.py --plot docs/word2vec.png
"""

import argparse
import importlib.util
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import sparsetrain as st

LEAST = 5  # occurrences of a word that is learned; words that have no more are the rare ones
DIM, WINDOW, NEGATIVES, BATCH, ALPHA = 64, 5, 5, 256, 0.99
SUBSAMPLE = 1e-3  # of words more frequent than this, occurrences are left out by chance
GAPS = (0, 10, 30, 100, 300, 1000, math.inf)  # idle steps where one median ends and the next begins
ASKED = ("israeli", "afghanistan", "cricket")  # whose neighbours are printed

Unused = Literal["frozen", "dense"]
COLOURS: dict[Unused, str] = {"frozen": "#0072B2", "dense": "#D55E00"}  # Okabe and Ito's, for colour-blind readers


class Text(NamedTuple):
    """Articles as ids of words, the most frequent word being 0."""

    words: list[str]
    counts: Tensor  # (words,), in the articles that are learned
    learned: list[Tensor]
    held_out: list[Tensor]


class Batch(NamedTuple):
    """Word ids: ``others`` has a word that was found near the centre, then words drawn by chance."""

    centres: Tensor  # (batch,)
    others: Tensor  # (batch, 1 + NEGATIVES)


class Use(NamedTuple):
    """A step of a rare word's row: how many steps it had been idle, and the rms of its change divided by lr."""

    step: int
    idle: int
    size: float


def read() -> list[list[str]]:
    """Lee's 300 news articles in lower-case words. gensim, which ships them, need not be imported for it."""
    spec = importlib.util.find_spec("gensim")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "word2vec: expected the package gensim, which ships the text, got none. Run: pip install gensim"
        )
    file = Path(spec.origin).parent / "test" / "test_data" / "lee_background.cor"
    return [re.findall("[a-z]+", line.lower()) for line in file.read_text(encoding="utf-8").splitlines()]


def text(articles: list[list[str]]) -> Text:
    """Every tenth article is held out; words with fewer than LEAST occurrences in the others are left out."""
    counter = Counter(word for k, article in enumerate(articles) if k % 10 != 9 for word in article)
    counts = {word: n for word, n in counter.most_common() if n >= LEAST}
    ids = {word: k for k, word in enumerate(counts)}
    as_ids = [torch.tensor([ids[word] for word in a if word in ids], dtype=torch.int64) for a in articles]
    learned = [a for k, a in enumerate(as_ids) if k % 10 != 9]
    return Text(list(ids), torch.tensor(list(counts.values())), learned, as_ids[9::10])


def batches(corpus: Text, articles: list[Tensor], seed: int) -> Iterator[Batch]:
    """One epoch: articles in a new order, words as they are read, each with every word near it."""
    generator = torch.Generator().manual_seed(seed)
    keep = (SUBSAMPLE * corpus.counts.sum() / corpus.counts).sqrt()  # 1 or more: always
    pairs = []
    for k in torch.randperm(len(articles), generator=generator).tolist():
        words = articles[k][torch.rand(len(articles[k]), generator=generator) < keep[articles[k]]]
        place = torch.arange(len(words))
        distance = (place[:, None] - place).abs()
        pairs.append(words[((distance > 0) & (distance <= WINDOW)).nonzero()])
    for part in torch.cat(pairs).split(BATCH):
        size = (len(part), NEGATIVES)
        drawn = torch.multinomial(corpus.counts**0.75, len(part) * NEGATIVES, replacement=True, generator=generator)
        yield Batch(part[:, 0], torch.cat([part[:, 1:], drawn.view(size)], dim=1))


class Contestant:
    """Two tables and their optimizer, and what was seen of them."""

    def __init__(self, words: int, unused: Unused, lr: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs, self.outputs = (st.nn.LookupTable(words, DIM, generator=generator) for _ in range(2))
        tables = [self.inputs.weight, self.outputs.weight]
        with torch.no_grad():
            for table in tables:
                table.mul_(0.1)  # scores near zero, where the logistic function is steepest
        self.optimizer = st.optim.RMSprop(tables, lr=lr, alpha=ALPHA, unused=unused)
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.uses: list[Use] = []  # of all rare words, but for the first of each
        self.history: list[Tensor] = []  # after each step (drawn words, DIM): their squared gradients

    def loss(self, batch: Batch) -> Tensor:
        """Logistic loss of a centre and its words, of which the found one is right and those drawn are wrong."""
        scores = (self.inputs(batch.centres)[:, None] * self.outputs(batch.others)).sum(-1)
        right = torch.zeros_like(scores)
        right[:, 0] = 1
        return functional.binary_cross_entropy_with_logits(scores, right, reduction="sum") / len(scores)

    def step(self, batch: Batch) -> None:
        """One step, and how long it took."""
        start = time.perf_counter()
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())

    @torch.no_grad()
    def squares(self, ids: Tensor) -> Tensor:
        """The squared gradients that the optimizer keeps of input rows."""
        self.inputs(ids)  # with unused="dense" rows are brought up to date when they are read
        kept: Tensor = self.optimizer.state[self.inputs.weight]["square_avg"]
        return kept[ids]


def train(corpus: Text, epochs: int, lr: float, seed: int = 0) -> dict[Unused, Contestant]:
    """Both contestants on the same batches, in turns, so that they meet the same moods of the machine."""
    contestants: dict[Unused, Contestant] = {kind: Contestant(len(corpus.words), kind, lr, seed) for kind in COLOURS}
    rare = corpus.counts == LEAST
    last = torch.full((len(corpus.words),), -1)  # step that used the word
    everything = (batch for k in range(epochs) for batch in batches(corpus, corpus.learned, seed + k))
    for t, batch in enumerate(everything):
        used = batch.centres.unique()
        used = used[rare[used]]
        for contestant in contestants.values():
            weight = contestant.inputs.weight.detach()
            before = weight[used]
            contestant.step(batch)
            sizes = (weight[used] - before).square().mean(1).sqrt() / lr
            seen = zip(last[used].tolist(), sizes.tolist(), strict=True)
            contestant.uses += [Use(t, t - then - 1, size) for then, size in seen if then >= 0]
            contestant.history.append(contestant.squares(drawn(corpus)))
        last[used] = t
    return contestants


def drawn(corpus: Text) -> Tensor:
    """The two rare words of the plot."""
    return (corpus.counts == LEAST).nonzero().flatten()[:2]


def settled(contestant: Contestant) -> list[Use]:
    """Uses in the second half of training: earlier ones are large in both for want of history."""
    return [use for use in contestant.uses if use.step >= len(contestant.losses) / 2]


def medians(contestant: Contestant) -> list[tuple[float, float]]:
    """Of the uses after each span of GAPS, the medians of idle steps and of size."""
    spans = [[use for use in settled(contestant) if a <= use.idle < b] for a, b in pairwise(GAPS)]
    return [(median(use.idle for use in span), median(use.size for use in span)) for span in spans if span]


def neighbours(contestant: Contestant, words: list[str], word: str) -> str:
    """The four words whose rows have the largest cosine with this word's."""
    rows = functional.normalize(contestant.inputs.matrix.detach())
    return ", ".join(words[k] for k in (rows @ rows[words.index(word)]).topk(5).indices.tolist()[1:])


def report(corpus: Text, contestants: dict[Unused, Contestant], epochs: int) -> str:
    """A line for each figure, a column for each contestant, then neighbours."""
    both = list(contestants.values())
    late = [[use.size for use in settled(c) if use.idle >= 100] or [math.nan] for c in both]
    lines = [
        ("loss of the first batch", [c.losses[0] for c in both]),
        ("loss in the last epoch", [fmean(c.losses[-(len(c.losses) // epochs) :]) for c in both]),
        ("loss on held-out articles", [loss_on(c, corpus, corpus.held_out) for c in both]),
        ("rare words: step / lr after >= 100 idle steps", [median(sizes) for sizes in late]),
        ("milliseconds per step (median)", [1000 * median(c.seconds) for c in both]),
    ]
    table = [
        f"{name:46}" + "".join(f"{'none' if math.isnan(value) else f'{value:.3f}':>10}" for value in values)
        for name, values in lines
    ]
    asked = [(word, kind) for word in ASKED if word in corpus.words for kind in contestants]
    near = [f"near {word}, {kind}: {neighbours(contestants[kind], corpus.words, word)}" for word, kind in asked]
    return "\n".join([" " * 46 + "".join(f"{kind:>10}" for kind in contestants), *table, *near])


@torch.no_grad()
def loss_on(contestant: Contestant, corpus: Text, articles: list[Tensor]) -> float:
    """The mean loss on articles, with the same drawn words each time."""
    given = list(batches(corpus, articles, seed=0))
    total = sum(contestant.loss(batch).item() * len(batch.centres) for batch in given)
    return total / sum(len(batch.centres) for batch in given)


def draw(corpus: Text, contestants: dict[Unused, Contestant], file: Path) -> None:
    """Left the history of two rare words, right how far rare words step after how long a rest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.8), dpi=120, layout="constrained")
    figure.suptitle(f"word2vec with RMSprop (alpha = {ALPHA}): input rows of words that occur {LEAST} times")
    left = figure.subplot_mosaic([["first", "steps"], ["second", "steps"]])
    right = left.pop("steps")
    for kind, contestant in contestants.items():
        draw_history(list(left.values()), corpus, kind, contestant)
        draw_steps(right, kind, contestant)
    limit = (1 - ALPHA) ** -0.5
    right.axhline(limit, color="#555555", linestyle="--", label=f"1 / sqrt(1 - alpha) = {limit:.0f}: no step is larger")
    right.set(title="Steps of all rare words, second half of training", xscale="log", ylim=(0, 1.3 * limit))
    right.set(xlabel="steps since the word's last use (1: in the step before)", ylabel="rms of the row's change / lr")
    right.legend(frameon=False, loc="upper left", fontsize=9)
    left["first"].legend(frameon=False, loc="lower right", ncols=2, fontsize=9)
    left["second"].set_xlabel("training step")
    for axes in (*left.values(), right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(file)


def draw_history(places: list[Any], corpus: Text, kind: Unused, contestant: Contestant) -> None:
    """The squared gradients kept of each drawn word."""
    for axes, curve, word in zip(places, torch.stack(contestant.history).mean(2).t(), drawn(corpus), strict=True):
        seen = curve.where(curve > 0, math.nan)  # nothing before the first use
        axes.semilogy(seen, color=COLOURS[kind], label=f'unused="{kind}"', linewidth=1.4)
        axes.set(title=f'History of "{corpus.words[word]}"', ylabel="square_avg, mean of the row")
        axes.set_ylim(1e-11, 1e-2)


def draw_steps(axes: Any, kind: Unused, contestant: Contestant) -> None:
    """A dot for each use, and medians."""
    uses = settled(contestant)
    dots = {"color": COLOURS[kind], "alpha": 0.25, "markersize": 3}
    axes.plot([use.idle + 1 for use in uses], [use.size for use in uses], ".", **dots)
    idle, sizes = zip(*medians(contestant), strict=True)
    style = {"color": COLOURS[kind], "markeredgecolor": "white", "linewidth": 2}
    axes.plot([k + 1 for k in idle], sizes, "o-", label=f'unused="{kind}" (line: medians)', zorder=3, **style)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both, print what came of it, and draw it where a file is named."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=6, help="passes through the text (6)")
    parser.add_argument("--lr", type=float, default=0.005, help="learning rate (0.005)")
    parser.add_argument("--seed", type=int, default=0, help="of tables, order and drawn words (0)")
    parser.add_argument("--articles", type=int, default=300, help="read this many of the 300")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the rows of rare words")
    given = parser.parse_args(arguments)
    if given.epochs < 1 or given.articles < 20:
        parser.error(f"expected 1 epoch and 20 articles or more, got {given.epochs} and {given.articles}")
    torch.set_num_threads(1)  # in steps as small as these, threads would wait for each other longer than they work
    corpus = text(read()[: given.articles])
    contestants = train(corpus, given.epochs, given.lr, given.seed)
    steps = len(contestants["frozen"].losses)
    print(f"{len(corpus.words)} words, {int(corpus.counts.sum())} occurrences, {steps} steps of {BATCH} pairs")
    print(report(corpus, contestants, given.epochs))
    if given.plot is not None:
        draw(corpus, contestants, given.plot)


if __name__ == "__main__":
    main()

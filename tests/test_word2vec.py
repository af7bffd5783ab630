"""The example docs/word2vec.py, in short: what it prints, and what becomes of the rows that a step does not use."""

import importlib.util
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

SCRIPT = Path(__file__).parent.parent / "docs" / "word2vec.py"
ARTICLES, EPOCHS, LR = 100, 3, 0.005

needs_gensim = pytest.mark.skipif(importlib.util.find_spec("gensim") is None, reason="needs the extra demo")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the script sets it: its steps are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def word2vec() -> ModuleType:
    spec = importlib.util.spec_from_file_location("word2vec", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(word2vec: ModuleType) -> Any:
    return word2vec.text(word2vec.read()[:ARTICLES])


@pytest.fixture(scope="module")
def trained(word2vec: ModuleType, corpus: Any) -> Any:
    """Both contestants after a short training."""
    return word2vec.train(corpus, EPOCHS, LR)


@pytest.fixture(scope="module")
def epoch(word2vec: ModuleType, corpus: Any) -> list[Any]:
    return list(word2vec.batches(corpus, corpus.learned, seed=0))


@needs_gensim
def test_words_and_pairs_are_those_of_the_text(word2vec: ModuleType) -> None:
    articles = word2vec.read()
    assert len(articles) == 300
    assert articles[0][:5] == ["hundreds", "of", "people", "have", "been"]
    corpus = word2vec.text(articles)
    assert (len(corpus.learned), len(corpus.held_out)) == (270, 30)
    assert corpus.words[0] == "the"
    learned = [word for k, article in enumerate(articles) if k % 10 != 9 for word in article]
    assert corpus.counts[:3].tolist() == [learned.count(word) for word in corpus.words[:3]]
    assert corpus.counts.min() == word2vec.LEAST
    assert torch.equal(torch.cat(corpus.learned).bincount(), corpus.counts)


def test_each_word_goes_with_all_that_are_near_it(word2vec: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word2vec, "SUBSAMPLE", 1.0)  # leave nothing out
    words = torch.arange(7)
    corpus = word2vec.Text(list("abcdefg"), torch.ones(7), [words], [])
    (batch,) = word2vec.batches(corpus, corpus.learned, seed=0)
    found = list(zip(batch.centres.tolist(), batch.others[:, 0].tolist(), strict=True))
    assert found == [(a, b) for a in range(7) for b in range(7) if 0 < abs(a - b) <= 5]
    assert batch.others.shape == (len(found), 1 + word2vec.NEGATIVES)


@needs_gensim
def test_the_loss_falls_from_the_same_start(word2vec: ModuleType, trained: Any) -> None:
    frozen, dense = trained["frozen"].losses, trained["dense"].losses
    assert len(frozen) == len(dense)
    assert frozen[0] == dense[0] == pytest.approx(6 * math.log(2), rel=0.01)  # six scores near zero
    assert frozen[1] == dense[1]  # after a first step there is no history to differ in
    quarter = len(frozen) // 4
    for losses in (frozen, dense):
        assert fmean(losses[-quarter:]) < 0.9 * fmean(losses[:quarter])


@needs_gensim
def test_the_history_of_a_word_between_its_uses(word2vec: ModuleType, corpus: Any, trained: Any) -> None:
    frozen, dense = (torch.stack(trained[kind].history) for kind in ("frozen", "dense"))
    everything = [b for k in range(EPOCHS) for b in word2vec.batches(corpus, corpus.learned, seed=k)]
    for place, word in enumerate(word2vec.drawn(corpus)):
        uses = [t for t, batch in enumerate(everything) if (batch.centres == word).any()] + [len(everything)]
        assert max(b - a for a, b in pairwise(uses)) > 30
        for use, next_use in pairwise(uses):
            kept, decayed = frozen[use:next_use, place], dense[use:next_use, place]
            assert torch.equal(kept, kept[0].expand_as(kept))
            expected = decayed[0].double() * 0.99 ** torch.arange(len(decayed)).double()[:, None]
            torch.testing.assert_close(decayed.double(), expected, rtol=1e-7 * (1 + len(decayed)), atol=0)


@needs_gensim
@pytest.mark.parametrize("kind", ["frozen", "dense"])
def test_the_history_of_words_that_nobody_looked_at(
    word2vec: ModuleType, corpus: Any, epoch: list[Any], kind: str
) -> None:
    """The decay that is made up for at once, at the end, of all words."""
    contestant = word2vec.Contestant(len(corpus.words), kind, LR, seed=0)
    last, after = torch.full((len(corpus.words),), -1), torch.zeros(len(corpus.words), word2vec.DIM)
    for t, batch in enumerate(epoch):
        contestant.step(batch)
        used = batch.centres.unique()
        last[used], after[used] = t, contestant.optimizer.state[contestant.inputs.weight]["square_avg"][used]
    contestant.optimizer.flush()
    now: Tensor = contestant.optimizer.state[contestant.inputs.weight]["square_avg"]
    idle = len(epoch) - 1 - last
    assert (idle > 30).sum() > 20
    assert (after[last >= 0].amax(1) > 0).all()
    if kind == "frozen":
        assert torch.equal(now, after)
    else:
        expected = after.double() * 0.99 ** idle.double()[:, None]
        torch.testing.assert_close(now.double(), expected, rtol=1e-6, atol=0)


@needs_gensim
def test_steps_grow_with_the_rest_before_them_under_dense_alone(word2vec: ModuleType, trained: Any) -> None:
    rested, busy = ({}, {})
    for kind, contestant in trained.items():
        uses = word2vec.settled(contestant)
        assert max(use.size for use in uses) < 10.001  # 1 / sqrt(1 - alpha)
        rested[kind] = median(use.size for use in uses if use.idle >= 100)
        busy[kind] = median(use.size for use in uses if 10 <= use.idle < 100)
    assert rested["dense"] > 1.1 * busy["dense"]
    assert rested["frozen"] < 1.1 * busy["frozen"]
    assert rested["dense"] > 3 * rested["frozen"]


@needs_gensim
def test_what_it_prints_and_draws(word2vec: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    word2vec.main(["--epochs", "2", "--articles", "20", "--plot", str(tmp_path / "w.png")])
    lines = capsys.readouterr().out.splitlines()
    first, last = ([float(number) for number in line.split()[-2:]] for line in lines[2:4])
    assert lines[1].split() == ["frozen", "dense"]
    assert first[0] == first[1]
    assert max(last) < first[0]
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")


def test_too_little_to_train_on_is_refused(word2vec: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        word2vec.main(["--articles", "19"])
    assert "expected 1 epoch and 20 articles or more, got 6 and 19" in capsys.readouterr().err


def test_without_gensim_it_says_what_to_install(word2vec: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"gensim, which ships the text.*pip install gensim"):
        word2vec.read()

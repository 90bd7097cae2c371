"""The collaborative filters that every language model is compared with, by name."""

from __future__ import annotations

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.recommenders.averages import GlobalMean, ItemMean, UserMean
from recinject.recommenders.content import ContentKNN
from recinject.recommenders.factorisation import ALS, BPR
from recinject.recommenders.history_rating import TransformerMLP
from recinject.recommenders.linear import EASE
from recinject.recommenders.neighbourhood import ItemKNN
from recinject.recommenders.popularity import Popularity, Random, RecentPopularity
from recinject.recommenders.protocol import Recommender
from recinject.recommenders.rating_models import MLP, Biases, MatrixFactorisation, WideDeep
from recinject.recommenders.self_attention import BERT4Rec, BinarySASRec, SASRec
from recinject.recommenders.semantic_ranker import HashedRanker, SemanticRanker
from recinject.recommenders.sequential import MarkovChain

BASELINES: dict[str, type[Recommender]] = {
    baseline.name: baseline
    for baseline in (
        *(Random, Popularity, RecentPopularity, ItemKNN, EASE, ALS, BPR, MarkovChain),
        ContentKNN,
        *(SASRec, BinarySASRec, BERT4Rec),
        *(GlobalMean, ItemMean, UserMean, Biases),
        *(MatrixFactorisation, MLP, WideDeep, TransformerMLP),
        *(SemanticRanker, HashedRanker),
    )
}


def make_baseline(name: str) -> Recommender:
    """Make an unfitted baseline with its default settings.

    Raises:
        RecinjectError: no baseline has that name.
    """
    if name not in BASELINES:
        raise RecinjectError(
            f"evaluation.baselines: unknown baseline {name!r}", hint=did_you_mean(name, BASELINES)
        )
    return BASELINES[name]()

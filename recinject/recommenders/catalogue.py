"""The collaborative filters that every language model is compared with, by name."""

from __future__ import annotations

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.methods.rating_networks.recommenders import (
    MLP,
    Biases,
    MatrixFactorisation,
    TransformerMLP,
    WideDeep,
)
from recinject.methods.semantic_ranker.recommender import HashedRanker, SemanticRanker
from recinject.recommenders.baselines import (
    EASE,
    ContentKNN,
    GlobalMean,
    ItemKNN,
    ItemMean,
    MarkovChain,
    Popularity,
    Random,
    RecentPopularity,
    UserMean,
)
from recinject.recommenders.factorisation import ALS, BPR
from recinject.recommenders.protocol import Recommender
from recinject.recommenders.sequence import BERT4Rec, BinarySASRec, SASRec

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

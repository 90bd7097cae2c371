"""The recipe: what a run is made of, checked key by key before anything starts."""

from recinject.recipe.loading import find_recipe, load_recipe, shipped_recipes
from recinject.recipe.recipe import Recipe
from recinject.recipe.sections import (
    MOST_EXAMPLES,
    AblationSection,
    DataSection,
    EvaluationSection,
    IdentifiersSection,
    SamplesSection,
    SemanticSection,
    TrainingSection,
)

__all__ = [
    "MOST_EXAMPLES",
    "AblationSection",
    "DataSection",
    "EvaluationSection",
    "IdentifiersSection",
    "Recipe",
    "SamplesSection",
    "SemanticSection",
    "TrainingSection",
    "find_recipe",
    "load_recipe",
    "shipped_recipes",
]

"""The stages of a run, from the recipe to the report; only this room reads a recipe."""

"""The stages of a run, from the recipe to the report; only this room reads a recipe.

Each stage hands plain arguments to the rooms below, and is skipped when its folder already holds
what it would make.
"""

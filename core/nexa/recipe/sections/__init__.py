"""The sections of a recipe, a module for each subject; `nexa.recipe.schema` puts them together."""

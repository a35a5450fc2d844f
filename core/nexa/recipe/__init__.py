"""Recipes: strict YAML in, one validated Recipe out, every value with its origin."""

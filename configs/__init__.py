"""Recipes: `default` holds every field, the others override it."""

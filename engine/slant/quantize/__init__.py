"""Fewer bits a weight: recipes, the solver, the artifact, and the search for the bits of each matrix."""

"""Faster ways to compute what a model computes, each exact to rounding, chosen by trial, for one model at a time."""

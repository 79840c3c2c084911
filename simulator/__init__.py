"""Iteration-level simulation of a serving engine: moves time, chooses nothing."""

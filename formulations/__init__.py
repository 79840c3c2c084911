"""Optimization problems over integers, one module per problem and solver."""

"""Benchmarks: what a user would use instead runs beside the product, in the same run.

Every benchmark checks its answer before it prints a figure, and claims ratios, not times.
"""

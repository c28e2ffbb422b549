"""Benchmarks: one short file for a data set or its kin, and the table of them all."""

"""Launchers: how nests and workers come to life and how their end is noticed."""

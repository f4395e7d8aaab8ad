"""Runs the model: processes, oracles, reports, the command line."""

VERSION = "0.1.0"

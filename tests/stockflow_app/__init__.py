"""Tests of the program around the pipeline: settings, logs, metrics and probes."""

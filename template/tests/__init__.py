"""Tests of the pair, on real servers and processes; discovery brings its own."""

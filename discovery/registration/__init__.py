"""Registers servers in a registry."""

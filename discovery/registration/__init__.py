"""Keeps a server listed in a registry."""

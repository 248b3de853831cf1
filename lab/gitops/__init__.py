"""Flux's kustomize-controller applies a project's overlays as they lie, commit after commit, under load.

`steps` changes a project's `repository`, which `flux` applies, and `page` shows what came of it.
"""

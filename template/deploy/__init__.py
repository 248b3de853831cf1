"""Brings the project to a cluster: `python -m deploy COMMAND`, called by make. Python's standard library and kubectl, nothing else.

base/, overlays/ and components/ are kustomize's; `manifests` renders one of them with what a site has chosen, `image` builds
what it runs, `rollout` applies it in an order that loses no call, `logs` follows all pods.
"""

"""Deploys the project to a cluster: `python -m deploy COMMAND`, called by make. It needs Python's standard library and kubectl, nothing else.

server/, client/, overlays/ and components/ are kustomize's; `manifests` renders an overlay with what a site has chosen, `image` builds what it
runs, `rollout` applies it in an order that loses no call, `logs` follows all pods. Only `certificates` needs the project's environment.
"""

"""One suite for every source: what a resolver promises, tried on each real registry.

`test_promises.py` states the promises, `registry.py` what a registry must let a test do to it. To try a source of your own,
write a registry beside the others and add it to `conftest.py`.
"""

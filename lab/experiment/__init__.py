"""The demo's scenario on a real cluster, in every mode: pods come and go, the cluster's own parts fail; who serves, what fails, how soon?

`scenario` runs it on a `cluster` while `watching` observes, and makes a `record`: what was seen, raw, as it is kept in JSON. All else
is made from records alone: `measure`, `assertions`, `explanation`, `page`, `picture`, and `results` writes them.
"""

"""The demo's story on a real cluster, in every mode: pods come and go, the cluster's own parts fail; who serves, what fails, how soon?

`story` tells it on a `cluster` while `watching` looks on, and makes a `record`: what was seen, raw, as it is kept in JSON. All else is
made from records alone: `measure`, `judgement`, `explanation`, `page`, `picture`, and `results` writes them.
"""

"""The demo's story on a real cluster, in every mode: pods come and go, the cluster's own parts fail; who serves, what fails, how soon?

`record` is what was seen, as it is kept in JSON; `measure`, `judgement`, `page` and `picture` are pure on it. `cluster`, `watching`
and `story` make it.
"""

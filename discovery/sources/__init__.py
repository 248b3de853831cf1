"""One file for each registry; `source.py` has their protocol and finds them by scheme."""

"""What production does to the pair, done on purpose: each fault on real components, with what it cost. `python -m lab.faults`."""

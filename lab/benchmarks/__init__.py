"""What discovery costs and how fast it is, each figure beside a peer in the same run; `python -m lab.benchmarks`."""

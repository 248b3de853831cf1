"""Every grammar that reads what others write, under a coverage-guided fuzzer; `python -m lab.fuzz`."""

"""The folder's own tests; they run wherever it is copied, as long as pytest is there."""

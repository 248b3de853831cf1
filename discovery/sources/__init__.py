"""One file a registry; `source.py` says what each must do and finds it by its scheme."""

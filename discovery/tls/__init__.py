"""Certificate files that are followed while a channel or server runs."""

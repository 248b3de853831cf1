"""Certificate files that are watched, and channels that rotate with them."""

"""Tests of the template: what it bakes, and that what it bakes works."""

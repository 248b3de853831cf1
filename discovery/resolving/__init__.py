"""What a source yields, made into snapshots that can be relied on."""

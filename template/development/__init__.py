"""What a developer needs and the service does not."""

"""The service's messages and stubs, generated from proto/ by `make proto`."""

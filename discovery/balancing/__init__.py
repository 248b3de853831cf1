"""Which endpoints of a snapshot gRPC balances over, in which parts and priorities. Pure."""

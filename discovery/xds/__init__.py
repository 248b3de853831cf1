"""The xDS control plane in this process, which feeds gRPC's own balancer."""

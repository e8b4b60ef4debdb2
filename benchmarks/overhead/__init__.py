"""What `gateway_overhead.py` is made of: gateways, scenarios, what processes cost, the report."""

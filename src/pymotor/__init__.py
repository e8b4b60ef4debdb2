"""PyMotor: serve large multimodal models with encode, prefill and decode on separate engines."""

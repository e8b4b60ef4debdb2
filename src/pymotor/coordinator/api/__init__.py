"""The OpenAI surface: request view, error objects, server-sent events."""

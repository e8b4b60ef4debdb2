"""The OpenAI and Anthropic surfaces: requests read, streams told apart, error objects, headers passed on."""

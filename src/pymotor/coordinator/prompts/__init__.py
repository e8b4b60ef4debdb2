"""The tokens of a prompt, as the engines will have them."""

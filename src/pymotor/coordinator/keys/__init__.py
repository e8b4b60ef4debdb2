"""API keys: how they are stored, who has which, and whether one that is shown is good."""

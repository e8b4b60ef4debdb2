"""A trace of prompts with shared beginnings, replayed in virtual time on the simulated engine's core."""

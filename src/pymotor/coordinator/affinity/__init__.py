"""Requests to where the beginnings of their prompts are: who is asked, what is known, what was decided."""

"""What `chat_affinity.py` is made of: a fleet for each policy, chats that go on, and the report."""

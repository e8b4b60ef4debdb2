"""When a failed leg is tried again, who is spared for a while, and how a broken answer is carried on."""

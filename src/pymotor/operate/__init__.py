"""What operators type: the verbs that ask a Controller, and how they find the one that is meant."""

"""Who gets a leg: reservations and policies."""

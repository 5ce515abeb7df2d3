"""Looking at networks without changing them."""

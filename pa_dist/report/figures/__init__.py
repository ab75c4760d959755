"""The figures: what they read, how they are drawn, what is said of them."""

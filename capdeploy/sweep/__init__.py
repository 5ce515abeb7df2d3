"""Many runs of the street: a grid of recipes, made one by one or side by side, then measured."""

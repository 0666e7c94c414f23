"""The commands about jobs that are there already: looking at them, watching and changing them."""

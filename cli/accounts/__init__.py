"""Companies, their campaigns and keys."""

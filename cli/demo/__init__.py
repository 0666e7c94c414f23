"""The demo: the main job on real servers, from nothing to the final status."""

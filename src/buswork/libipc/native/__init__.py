"""Run directories, look-ups, and connections to services for those who don't make their own."""

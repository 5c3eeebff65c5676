"""USB devices for any wing: which there are, and a worker for each that is in use."""

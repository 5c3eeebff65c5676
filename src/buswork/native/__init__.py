"""What the native sockets of all wings have in common."""

"""What the flipper wing has to do with boards, their sockets and those of peers."""

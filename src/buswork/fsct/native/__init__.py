"""What the fsct wing has to do with sockets and devices."""
